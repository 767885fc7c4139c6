"""Encoded images: listed first, decoded only where they are wanted."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
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
_MOST_CLASSES = 100_000
_BROKEN = 0.05
"""Share of the images that may be unreadable and left out; with more, something else is wrong."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, DataError)
"""What it may raise to decode an image."""

Prepare = Callable[[Float[Tensor, "1 c h w"]], Float[Tensor, "1 new_c new_h new_w"]]


@dataclass(frozen=True)
class Listing:
    """n labelled images that are not decoded yet."""

    called: Sequence[str]
    """How messages name each."""
    labels: Sequence[int]
    names: tuple[str, ...]
    """Of the classes."""
    read: Callable[[Sequence[int]], Iterator[Path | BytesIO]]
    """Those at some positions, which ascend, one at a time."""


def classes(found: Iterable[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Label of each class, and names of all labels, from the names that occur.

    Alphabetical; if all are whole numbers, these are the labels. Raises DataError for numbers that are
    written in two ways or too large.
    """
    named = sorted(set(found))
    if not all(name.isdecimal() and name.isascii() for name in named):
        return {name: i for i, name in enumerate(named)}, tuple(named)
    numbers = {name: int(name[:20]) for name in named}
    by_label: dict[int, str] = {}
    for name, label in numbers.items():
        if label >= _MOST_CLASSES:
            raise DataError(f"{label} would be a class number; wanted numbers below {_MOST_CLASSES}")
        if label in by_label:
            raise DataError(f"classes {by_label[label]} and {name} are the same class number; rename one")
        by_label[label] = name
    return numbers, tuple(by_label.get(label, str(label)) for label in range(max(by_label, default=-1) + 1))


def inside(name: str) -> PurePosixPath:
    """A relative path that stays below its folder. Raises DataError for any other."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise DataError(f"{name!r} leads out of the data's folder, which is refused; give paths below it")
    return path


def decoded(
    listing: Listing, chosen: Sequence[int], prepare: Prepare
) -> tuple[Float[Tensor, "n channels h w"], Int[Tensor, " n"], str]:
    """Images in [0, 1] and labels of those at the positions chosen, and a sentence on those left out.

    `prepare` is done to each image. They are grey if all are. Raises DataError for differing sizes, and if
    more than a few cannot be read.
    """
    x = torch.empty(0)
    y: list[int] = []
    broken: list[str] = []
    first = ""
    for position, source in zip(chosen, listing.read(chosen), strict=True):
        name = listing.called[position]
        try:
            image = prepare(decode(source))
        except UNREADABLE as error:
            broken.append(f"{name} ({str(error).strip() or type(error).__name__})")
            continue
        if not y:
            first, x = name, torch.empty(len(chosen), *image.shape[1:])
        if image.shape[2:] != x.shape[2:]:
            (a, b), (c, d) = image.shape[2:], x.shape[2:]
            raise DataError(f"{first} is {d}×{c} pixels, {name} is {b}×{a}; give one size with --size")
        if image.shape[1] > x.shape[1]:
            x = x.repeat(1, 3, 1, 1)
        x[len(y)] = image[0]  # grey spreads over the channels
        y.append(listing.labels[position])
    told = f"{len(broken)} of {len(chosen)} images cannot be read, the first is {broken[0]}" if broken else ""
    if len(broken) > _BROKEN * len(chosen):
        raise DataError(f"{told}; replace or remove them")
    return x[: len(y)], torch.tensor(y), told and f"{told}; they are left out"


def decode(source: Path | BytesIO) -> Float[Tensor, "1 c h w"]:
    """One image in [0, 1], grey or RGB. Raises DataError if it would unpack to too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_FORMATS) as image:
                pixels = _pixels(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"it would unpack to more than {Image.MAX_IMAGE_PIXELS} pixels") from error
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
