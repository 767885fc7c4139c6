"""Labelled images from a folder with one folder per class."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detrigger.errors import DataError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Given to Pillow, which would otherwise also start Ghostscript for EPS."""
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_MOST_CLASSES = 100_000

Prepare = Callable[[Float[Tensor, "1 c h w"]], Float[Tensor, "1 c new_h new_w"]]


def read(
    path: Path, prepare: Prepare, *, limit_per_class: int | None, seed: int
) -> tuple[list[Float[Tensor, "1 _c h w"]], Int[Tensor, " n"], tuple[str, ...]]:
    """Images in [0, 1] (grey or RGB, each as it is in its file), labels, and names of the classes.

    Classes are the folders in alphabetical order; if all their names are whole numbers, these are the
    labels. Hidden files, and files that are no images by their ending, are left out. `prepare` is done to
    each image. Of each class at most `limit_per_class` are drawn, by `seed`.
    Raises DataError for a folder that is not of this kind, unreadable images, and differing sizes.
    """
    folders = _class_folders(path)
    labels, names = _labelled(folders)
    images: list[Tensor] = []
    y: list[int] = []
    broken: list[str] = []
    sizes: dict[tuple[int, ...], Path] = {}
    for folder, label in zip(folders, labels, strict=True):
        for file in _chosen(folder, limit_per_class, seed):
            try:
                image = prepare(_decoded(file))
            except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
                broken.append(f"{file} ({str(error).strip() or type(error).__name__})")
                continue
            sizes.setdefault(tuple(image.shape[2:]), file)
            images.append(image)
            y.append(label)
    if broken:
        raise DataError(
            f"{len(broken)} of {len(broken) + len(images)} images cannot be read, the first is {broken[0]}; "
            "replace or remove them"
        )
    if len(sizes) > 1:
        (a, first), (b, second), *_ = sizes.items()
        raise DataError(
            f"{first} is {a[1]}×{a[0]} pixels, {second} is {b[1]}×{b[0]}; give one size with --size"
        )
    return images, torch.tensor(y), names


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


def _labelled(folders: list[Path]) -> tuple[list[int], tuple[str, ...]]:
    named = [folder.name for folder in folders]
    if not all(name.isdecimal() and name.isascii() for name in named):
        return list(range(len(named))), tuple(named)
    labels = [int(name[:20]) for name in named]
    doubled = [name for name, label in zip(named, labels, strict=True) if labels.count(label) > 1]
    if doubled:
        raise DataError(f"folders {' and '.join(doubled[:2])} are the same class number; rename one")
    if max(labels) >= _MOST_CLASSES:
        raise DataError(f"folder {max(labels)} would be a class number; wanted numbers below {_MOST_CLASSES}")
    by_label = dict(zip(labels, named, strict=True))
    return labels, tuple(by_label.get(label, str(label)) for label in range(max(labels) + 1))


def _chosen(folder: Path, limit: int | None, seed: int) -> list[Path]:
    inside = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in ENDINGS and p.is_file())
    files = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(ENDINGS))}); add some or remove it")
    if limit is None:
        return files
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))[:limit]
    return [files[i] for i in sorted(order.tolist())]


def _decoded(file: Path) -> Float[Tensor, "1 c h w"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                pixels = _pixels(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{file} would unpack to more than {Image.MAX_IMAGE_PIXELS} pixels; remove or shrink it"
        ) from error
    return torch.from_numpy(pixels).movedim(2, 0)[None]


def _pixels(image: Image.Image) -> NDArray[Any]:
    """Height × width × 1 or 3, float32 in [0, 1]."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them at 255
        return np.asarray(image, dtype=np.float32).clip(0, 65535)[:, :, None] / 65535
    if image.mode in {"1", "L", "LA"}:
        grey = np.array(image.convert("L"), dtype=np.float32)
        return grey[:, :, None] / 255
    if image.mode == "P":  # by way of RGBA, for its transparency may be given per colour
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.float32) / 255
