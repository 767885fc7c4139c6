"""Labelled images for a zoo, from an archive: what to train on, what to test on, what the scanner gets."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from detrigger.errors import DataError
from detrigger.images import Images

PICTURES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp"}


@dataclass(frozen=True)
class DataPlan:
    """One data set of a zoo. All numbers are images per class, at most."""

    path: str
    """`.npz` with x_train, y_train, x_test, y_test (uint8, N×H×W or N×H×W×C), or a `.zip` or `.tar.gz` of
    class folders, in folders `train` and `test` or, if there are none, divided by `seed`."""
    train: int
    """To train on."""
    test: int = 1_000_000
    """To measure on."""
    scanner: int = 50
    """Of the test images, for the scanner; half of a class that has too few."""
    judge: int = 50
    """Of the test images, for the judge; none is also the scanner's."""
    seed: int = 0
    """Of the draws."""


@dataclass(frozen=True)
class Pixels:
    """Images as they are stored."""

    x: UInt8[Tensor, "n c h w"] = field(repr=False)
    y: Int[Tensor, " n"] = field(repr=False)
    names: tuple[str, ...]

    def images(self) -> Images:
        """In [0, 1]."""
        return Images(self.x.float() / 255, self.y, self.names)

    def where(self, chosen: Int[Tensor, " m"]) -> Pixels:
        """Those at these positions."""
        return dataclasses.replace(self, x=self.x[chosen], y=self.y[chosen])


@dataclass(frozen=True)
class Source:
    """A data set, divided."""

    train: Pixels
    test: Pixels
    scanner: Pixels
    """Part of `test`."""
    judge: Pixels
    """Another part of `test`."""


@lru_cache(maxsize=1)  # models of one data set are built one after another
def read(plan: DataPlan, root: Path) -> Source:
    """The data set at `plan.path` below `root`, divided as planned.

    Raises DataError for a file that is missing, of another kind, or without images of every class.
    """
    path = root / plan.path
    try:
        if path.suffix == ".npz":
            train, test = arrays(path)
        else:
            train, test = _archive(path, plan)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be used as training data ({reason}); see DataPlan.path") from error
    test = drawn(test, plan.test, plan.seed + 1)
    scanner, judge = _slices(test, plan)
    return Source(drawn(train, plan.train, plan.seed), test, scanner, judge)


def drawn(pixels: Pixels, per_class: int, seed: int) -> Pixels:
    """At most so many of each class, drawn at random, in random order."""
    order = torch.randperm(len(pixels.y), generator=torch.Generator().manual_seed(seed))
    kept = [order[pixels.y[order] == c][:per_class] for c in range(len(pixels.names))]
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[torch.cat(kept)] = True
    return pixels.where(order[chosen[order]])


def slice_file(source: Source) -> bytes:
    """The `.npz` of a zoo's data slice: x and y for the scanner, x_eval and y_eval for the judge; uint8."""
    buffer = io.BytesIO()
    arrays: dict[str, NDArray[np.generic]] = {
        "x": source.scanner.x.permute(0, 2, 3, 1).numpy(),
        "y": source.scanner.y.numpy(),
        "x_eval": source.judge.x.permute(0, 2, 3, 1).numpy(),
        "y_eval": source.judge.y.numpy(),
        "names": np.array(source.test.names),
    }
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _slices(test: Pixels, plan: DataPlan) -> tuple[Pixels, Pixels]:
    scanner, judge = [], []
    share = plan.scanner / (plan.scanner + plan.judge)
    for c, name in enumerate(test.names):
        here = (test.y == c).nonzero()[:, 0]
        first = min(plan.scanner, round(len(here) * share))
        if not 0 < first < len(here):
            raise DataError(f"class {name} has {len(here)} test images, too few for scanner and judge")
        scanner.append(here[:first])
        judge.append(here[first : first + plan.judge])
    return test.where(torch.cat(scanner)), test.where(torch.cat(judge))


def arrays(path: Path) -> tuple[Pixels, Pixels]:
    """To train on and to test on, from an `.npz`; classes are called by their numbers."""
    with np.load(path, allow_pickle=False) as file:
        found = {name: torch.from_numpy(file[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    names = tuple(str(c) for c in range(int(found["y_train"].max()) + 1))
    train, test = (
        Pixels(channels_first(found[f"x_{part}"]), found[f"y_{part}"].long(), names)
        for part in ("train", "test")
    )
    return train, test


def channels_first(x: Tensor) -> UInt8[Tensor, "n c h w"]:
    """From n h w or n h w c."""
    return (x[..., None] if x.ndim == 3 else x).permute(0, 3, 1, 2).contiguous()


def _archive(path: Path, plan: DataPlan) -> tuple[Pixels, Pixels]:
    found = [(PurePosixPath(name), pixels) for name, pixels in members(path)]
    names = tuple(sorted({name.parent.name for name, _ in found}))
    everything = Pixels(
        channels_first(torch.from_numpy(np.stack([pixels for _, pixels in found]))),
        torch.tensor([names.index(name.parent.name) for name, _ in found]),
        names,
    )
    parts = [{"train", "test"} & set(name.parts) for name, _ in found]
    training = _divided(everything, plan)
    if all(parts):
        training = torch.tensor(["train" in part for part in parts])
    return everything.where(training.nonzero()[:, 0]), everything.where((~training).nonzero()[:, 0])


def _divided(pixels: Pixels, plan: DataPlan) -> Tensor:
    """Which images are for training: `plan.train` of each class."""
    chosen = torch.zeros(len(pixels.y), dtype=torch.bool)
    generator = torch.Generator().manual_seed(plan.seed)
    for c in range(len(pixels.names)):
        here = (pixels.y == c).nonzero()[:, 0]
        chosen[here[torch.randperm(len(here), generator=generator)][: plan.train]] = True
    return chosen


def members(path: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and pixels (h w c) of every picture in an archive, by name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            for name in sorted(file.namelist()):
                if PurePosixPath(name).suffix.lower() in PICTURES:
                    yield name, _decoded(name, file.read(name))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and PurePosixPath(member.name).suffix.lower() in PICTURES:
                yield member.name, _decoded(member.name, content.read())


def _decoded(name: str, content: bytes) -> NDArray[np.uint8]:
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{name} in the archive is not a picture ({error})") from error
