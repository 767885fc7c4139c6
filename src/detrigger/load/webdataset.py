"""Labelled images from tar archives in the WebDataset layout: `KEY.jpg` beside `KEY.cls` or `KEY.json`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrigger.errors import DataError
from detrigger.load.pictures import ENDINGS, Listing, classes, inside

_LABELS = ("label", "cls", "class")
_SMALL = 1 << 20
"""Most bytes of a file with a label."""
_LARGE = 1 << 28
"""Most bytes of an image file."""


@dataclass(frozen=True)
class _Member:
    archive: Path
    name: str
    offset: int
    size: int

    def bytes(self, most: int) -> bytes:
        if self.size > most:
            return b""  # no image and no label, which is told where it is missed
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def listed(archives: Sequence[Path]) -> Listing:
    """The images of uncompressed tar archives, in their order. Nothing is unpacked to disk.

    Raises DataError for an archive that is damaged, an image without a label, and names or links that lead
    out of the archive.
    """
    images: list[_Member] = []
    labels: list[str] = []
    for archive in archives:
        for image, label in _samples(archive):
            images.append(image)
            labels.append(label)
    if not images:
        raise DataError(f"{archives[0]} holds no images beside their labels; wanted KEY.jpg and KEY.cls")
    numbers, names = classes(labels)

    def read(chosen: Sequence[int]) -> Iterator[io.BytesIO]:
        return (io.BytesIO(images[i].bytes(_LARGE)) for i in chosen)

    called = [f"{image.archive}:{image.name}" for image in images]
    return Listing(called, [numbers[label] for label in labels], names, read)


def _samples(archive: Path) -> Iterator[tuple[_Member, str]]:
    """Images and labels that share a key, in the order of the images."""
    images: dict[str, _Member] = {}
    labels: dict[str, _Member] = {}
    for member in _members(archive):
        folder, slash, last = member.name.rpartition("/")
        stem, _, ending = last.partition(".")
        if not stem:
            continue  # hidden
        key = f"{folder}{slash}{stem}"
        if f".{ending.lower()}" in ENDINGS:
            images[key] = member
        elif ending == "cls" or (ending == "json" and key not in labels):
            labels[key] = member
    for key, image in images.items():
        if key not in labels:
            raise DataError(f"{archive}: {image.name} has no {key}.cls or {key}.json with its label; add it")
        yield image, _label(labels[key])


def _members(archive: Path) -> Iterator[_Member]:
    try:
        with tarfile.open(archive, "r:") as packed:
            size = archive.stat().st_size
            for member in packed:
                if member.issym() or member.islnk():
                    raise DataError(f"{archive}: {member.name!r} is a link, which is refused; pack the file")
                if not member.isreg() or member.issparse():
                    continue
                inside(member.name)
                if member.offset_data + member.size > size:
                    raise DataError(f"{archive} ends within {member.name!r}; copy or download it again")
                yield _Member(archive, member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cannot read {archive} as a tar archive ({error}); if it is compressed, unpack it first"
        ) from error


def _label(member: _Member) -> str:
    try:
        text = member.bytes(_SMALL).decode()
        value = text.strip() if member.name.endswith(".cls") else _entry(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{member.archive}: cannot read {member.name} ({error})") from error
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{member.archive}: {member.name} holds no label; wanted a class, or JSON with {_LABELS[0]}"
        )
    return str(value)


def _entry(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return next((value[key] for key in _LABELS if key in value), None)
