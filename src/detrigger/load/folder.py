"""Labelled images from a folder with one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from detrigger.errors import DataError
from detrigger.load.pictures import ENDINGS, Listing, classes

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def listed(path: Path) -> Listing:
    """Every image below the class folders, in alphabetical order.

    Hidden files, and files that are no images by their ending, are left out.
    Raises DataError for a folder that is not of this kind.
    """
    folders = _class_folders(path)
    labels, names = classes(folder.name for folder in folders)
    called: list[str] = []
    y: list[int] = []
    for folder in folders:
        files = sorted(_images(str(folder)))
        if not files:
            raise DataError(f"{folder} holds no images ({', '.join(sorted(ENDINGS))}); add some or remove it")
        called += files
        y += [labels[folder.name]] * len(files)

    def read(chosen: Sequence[int]) -> Iterator[Path]:
        return (Path(called[i]) for i in chosen)

    return Listing(called, y, names, read)


def _class_folders(path: Path) -> list[Path]:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    wanted = "wanted one folder of images per class"
    if not folders:
        raise DataError(f"{path} has no folders in it; {wanted}")
    if {folder.name.lower() for folder in folders} <= _SPLITS:
        raise DataError(f"{path} holds splits, not classes; give one of them, as in {folders[-1]}")
    if len(folders) == 1:
        raise DataError(f"{path} has a single class, {folders[0].name!r}; {wanted}, two or more")
    return folders


def _images(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:  # tells files from folders without asking for each
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _images(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in ENDINGS and entry.is_file():
                yield entry.path
