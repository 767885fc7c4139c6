"""DOTA as it is released: pictures with oriented boxes, cut into crops of objects or into tiles.

Xia et al., "DOTA: A large-scale dataset for object detection in aerial images", CVPR 2018. Below a folder, at
any depth: `images/NAME.png` with `labelTxt/NAME.txt`, one object a line (x1 y1 x2 y2 x3 y3 x4 y4 class
difficult, in pixels, after lines of another form). Also the form in which parts of it come:
`images/PART/NAME.jpg` with `labels/PART/NAME.txt` (number of the class, then corners as shares of width and
height).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from detrigger.errors import DataError

KINDS = (
    "plane",
    "ship",
    "storage-tank",
    "baseball-diamond",
    "tennis-court",
    "basketball-court",
    "ground-track-field",
    "harbor",
    "bridge",
    "large-vehicle",
    "small-vehicle",
    "helicopter",
    "roundabout",
    "soccer-ball-field",
    "swimming-pool",
)
"""The 15 classes of version 1.0, in the order of their numbers."""
PICTURES = (".png", ".jpg", ".jpeg", ".tif")
MARGIN = 1.3
"""Side of a crop, as a multiple of the longer side of its object's upright box."""
LEAST = 12
"""Objects with no side of so many pixels are left out."""


@dataclass(frozen=True)
class Thing:
    """One object."""

    kind: str
    """Its class."""
    corners: tuple[tuple[float, float], ...]
    """Four points (x, y) in pixels, in order around the object."""

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the upright box around it."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class Scene:
    """One picture and what is in it."""

    picture: Path
    labels: Path

    def things(self, size: tuple[int, int]) -> tuple[Thing, ...]:
        """The objects; `size` is width and height. Raises DataError for a line that is not understood."""
        try:
            lines = self.labels.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.labels} cannot be read as DOTA's labels ({error})") from error
        found = [_thing(line, size, self.labels) for line in lines]
        return tuple(thing for thing in found if thing is not None)


@dataclass(frozen=True)
class Pieces:
    """Square pictures cut out of scenes."""

    x: UInt8[Tensor, "n 3 s s"] = field(repr=False)
    kinds: tuple[str, ...]
    """Class of each."""
    scenes: tuple[str, ...]
    """Picture that each was cut from, by its path."""


def scenes(folder: Path) -> tuple[Scene, ...]:
    """All pictures with labels below a folder, by path. Raises DataError if there are none."""
    found = []
    for picture in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES):
        parts = picture.relative_to(folder).parts
        for form in ("labelTxt", "labels"):
            named = [form if part == "images" else part for part in parts]
            labels = folder.joinpath(*named).with_suffix(".txt")
            if "images" in parts and labels.is_file():
                found.append(Scene(picture, labels))
                break
    if not found:
        raise DataError(f"{folder} holds no images/NAME.png with labelTxt/NAME.txt; see bench.dota")
    return tuple(found)


def crops(folder: Path, size: int) -> Pieces:
    """Every object in a square around it, `size` pixels a side; black where that leaves the picture."""
    made = []
    for scene, picture, things in _opened(folder):
        for thing in things:
            left, top, right, bottom = thing.box()
            side = max(right - left, bottom - top)
            if side >= LEAST:
                x, y, half = (left + right) / 2, (top + bottom) / 2, MARGIN * side / 2
                cut = picture.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
                made.append((np.asarray(cut.resize((size, size), Image.Resampling.BOX)), thing.kind, scene))
    return _pieces(made, folder)


def tiles(folder: Path, size: int, stride: int) -> Pieces:
    """Windows of `size` × `size` pixels, every `stride` pixels; each has the commonest class of the objects
    whose middle is in it, and windows without any are left out. Smaller pictures are left out."""
    made = []
    for scene, picture, things in _opened(folder):
        for top in range(0, picture.height - size + 1, stride):
            for left in range(0, picture.width - size + 1, stride):
                inside = Counter(t.kind for t in things if _within(t, left, top, size))
                if inside:
                    cut = picture.crop((left, top, left + size, top + size))
                    made.append((np.asarray(cut), inside.most_common(1)[0][0], scene))
    return _pieces(made, folder)


def _opened(folder: Path) -> Iterator[tuple[str, Image.Image, tuple[Thing, ...]]]:
    for scene in scenes(folder):
        try:
            with Image.open(scene.picture) as file:
                picture = file.convert("RGB")
        except OSError as error:
            raise DataError(f"{scene.picture} is not a picture ({error})") from error
        yield str(scene.picture.relative_to(folder)), picture, scene.things(picture.size)


def _within(thing: Thing, left: int, top: int, size: int) -> bool:
    x0, y0, x1, y1 = thing.box()
    return left <= (x0 + x1) / 2 < left + size and top <= (y0 + y1) / 2 < top + size


def _pieces(made: Sequence[tuple[np.ndarray, str, str]], folder: Path) -> Pieces:
    if not made:
        raise DataError(f"nothing of the wanted size could be cut from the pictures in {folder}")
    pixels, kinds, names = zip(*made, strict=True)
    return Pieces(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), kinds, names)


def _thing(line: str, size: tuple[int, int], labels: Path) -> Thing | None:
    words = line.split()
    if len(words) < 9:  # `imagesource:` and `gsd:`
        return None
    try:
        if words[0].isdigit() and len(words) == 9:
            kind, scale = KINDS[int(words[0])], size
            numbers = [float(word) for word in words[1:]]
        else:
            kind, scale = words[8], (1, 1)
            numbers = [float(word) for word in words[:8]]
        if kind not in KINDS:
            raise ValueError(f"no class {kind!r}")
    except (ValueError, IndexError) as error:
        raise DataError(f"{labels}: {line!r} is not an object of DOTA 1.0 ({error})") from error
    points = zip(numbers[::2], numbers[1::2], strict=True)
    return Thing(kind, tuple((x * scale[0], y * scale[1]) for x, y in points))
