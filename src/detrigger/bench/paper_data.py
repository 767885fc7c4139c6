"""The paper's data sets: divided into what is trained on, what the scanner gets and what is measured on."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from detrigger.bench import dota
from detrigger.bench.paper_fetch import ensure
from detrigger.bench.sources import Pixels, arrays, channels_first, members
from detrigger.errors import DataError

Kind = Literal["arrays", "people", "pictures", "crops", "objects", "tiles"]

KEPT = 10
"""Pieces that a class keeps to train on, if it has twice as many."""


@dataclass(frozen=True)
class PaperData:
    """One data set, and how it is divided."""

    kind: Kind
    """`arrays`: `.npz` with x_train, y_train, x_test, y_test. `people`, `pictures`: `.zip` of class folders.
    `crops`: `.zip` of class folders beside a `.csv` that names each picture's source image. `objects`,
    `tiles`: a folder of DOTA as it is released, cut around objects or into windows."""
    path: str
    """Below the root of the data."""
    test: float = 0.2
    """Share of the images that are not trained on, but for `arrays`, which are divided already; above 0,
    below 1. Every class keeps an image to train on; pieces of one source image stay together, and then
    half of each class's pieces, ten at most, are trained on."""
    scanner: float = 0.5
    """Share of those that the scanner gets; the rest is measured on. Above 0, below 1."""
    size: int = 64
    """Pixels a side of what is cut from DOTA."""
    stride: int = 400
    """Pixels between windows of `tiles`."""
    limit: int = 1_000_000
    """Training images of each class, at most."""
    seed: int = 0
    """Of the division."""


@dataclass(frozen=True)
class Divided:
    """A data set, ready."""

    train: Pixels
    scanner: Pixels
    """Neither trained on nor measured on."""
    judge: Pixels
    """What everything is measured on."""


@lru_cache(maxsize=1)  # the models of one data set are made one after another
def divided(plan: PaperData, root: Path | None) -> Divided:
    """The data set below `root`; without a root, fetched first if that is possible.

    Raises DataError for files that are missing or of another kind, saying where they come from.
    """
    path = ensure(plan.path, root)
    try:
        train, test = _read(plan, path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be used as {plan.kind} ({reason}); see PaperData.kind") from error
    generator = torch.Generator().manual_seed(plan.seed)
    order = torch.randperm(len(test.y), generator=generator)
    scanner = round(plan.scanner * len(order))
    if not 0 < scanner < len(order):
        raise DataError(f"{path} leaves {len(order)} test images, too few for scanner and measurement")
    train = _limited(train, plan.limit, generator)
    return Divided(
        train, test.where(order[:scanner].sort().values), test.where(order[scanner:].sort().values)
    )


def _read(plan: PaperData, path: Path) -> tuple[Pixels, Pixels]:
    if plan.kind == "arrays":
        return arrays(path)
    if plan.kind == "tiles":
        pieces = _shared(dota.tiles(path, plan.size, plan.stride))
        return _parts(_labelled(pieces.x, pieces.kinds), pieces.scenes, plan)
    if plan.kind == "objects":
        pieces = dota.crops(path, plan.size)
        return _parts(_labelled(pieces.x, pieces.kinds), pieces.scenes, plan)
    found = list(members(path))
    kinds = [Path(name).parent.name for name, _ in found]
    pixels = _labelled(channels_first(torch.from_numpy(np.stack([x for _, x in found]))), kinds)
    groups = [name for name, _ in found]
    if plan.kind == "crops":
        sources = _sources(path.with_suffix(".csv"))
        groups = [sources["/".join(Path(name).parts[-2:])] for name in groups]
    return _parts(pixels, groups, plan)


def _sources(path: Path) -> dict[str, str]:
    """Per picture, CLASS/NAME, the source image that it was cut from."""
    with path.open(newline="", encoding="utf-8") as file:
        return {"/".join(Path(row["file"]).parts[-2:]): row["image"] for row in csv.DictReader(file)}


def _labelled(x: Tensor, kinds: Sequence[str]) -> Pixels:
    names = tuple(sorted(set(kinds)))
    number = {name: i for i, name in enumerate(names)}
    return Pixels(x, torch.tensor([number[kind] for kind in kinds]), names)


def _shared(pieces: dota.Pieces) -> dota.Pieces:
    """Those of classes that more than one scene has: others cannot be both trained on and measured on."""
    scenes: dict[str, set[str]] = {}
    for kind, scene in zip(pieces.kinds, pieces.scenes, strict=True):
        scenes.setdefault(kind, set()).add(scene)
    kept = [i for i, kind in enumerate(pieces.kinds) if len(scenes[kind]) > 1]
    if not kept:
        raise ValueError("no class has windows in more than one scene")
    return dota.Pieces(
        pieces.x[kept], tuple(pieces.kinds[i] for i in kept), tuple(pieces.scenes[i] for i in kept)
    )


def _parts(pixels: Pixels, groups: Sequence[str], plan: PaperData) -> tuple[Pixels, Pixels]:
    """For training and for testing."""
    test = held_back(pixels.y, groups, plan)
    return pixels.where((~test).nonzero()[:, 0]), pixels.where(test.nonzero()[:, 0])


def held_back(y: Int[Tensor, " n"], groups: Sequence[str], plan: PaperData) -> Bool[Tensor, " n"]:
    """Which images are for testing: groups drawn at random as long as every class keeps one to train on.

    Where images stand in groups, there are few of these: small ones with a class not tested yet come
    first, and every class keeps half of its images, or ten.
    """
    positions: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        positions.setdefault(group, []).append(i)
    names, left, wanted = list(positions), torch.bincount(y), round(plan.test * len(y))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(plan.seed)).tolist()
    test = torch.zeros(len(y), dtype=torch.bool)
    grouped = len(names) < len(y)
    small = sorted(order, key=lambda i: len(positions[names[i]])) if grouped else []
    least = ((left + 1) // 2).clamp(max=KEPT) if grouped else torch.ones_like(left)
    for all_new, these in ((True, small), (False, order)):
        for i in these:
            here = torch.tensor(positions[names[i]])
            counts = torch.bincount(y[here], minlength=len(left))
            new = not bool(torch.isin(y[here], y[test]).all())
            fits = len(here) <= max(1, wanted) and bool((left - counts >= least)[counts > 0].all())
            if fits and not test[here[0]] and (new or not all_new):
                test[here] = True
                left, wanted = left - counts, wanted - len(here)
            if wanted <= 0:
                return test
    return test


def _limited(train: Pixels, limit: int, generator: torch.Generator) -> Pixels:
    order = torch.randperm(len(train.y), generator=generator)
    kept = torch.cat([order[train.y[order] == c][:limit] for c in range(len(train.names))])
    return train.where(kept.sort().values)
