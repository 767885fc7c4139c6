"""Which triggers a scan looks for, in what order, and when it may stop."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from detrigger import fast, measure
from detrigger.budgets import BUDGETS, Budget, stages
from detrigger.detect import DetectConfig, Finding, detect
from detrigger.heats import InvertConfig, Map, Progress, serial, silent
from detrigger.images import Images
from detrigger.invert import Inversion, invert
from detrigger.model import Classifier
from detrigger.pairs import PAIR

PAIR_CLASSES = range(4, 21)
"""Numbers of classes at which all pairs are searched, if nothing else was found: with fewer there is
nothing to compare, with more they cost too much."""

PAIR_IMAGES = 5
"""Images that a class needs to be a source: of fewer, hardly any can be held out."""

PAIR_MEASURED = 24
"""Held-out images at most on which the trigger of a pair is measured."""


MEASURED = 64
"""Images on which the speed of each precision is measured."""


@dataclass(frozen=True)
class Search:
    """One search: a family over all targets, or patches for pairs of classes."""

    family: str
    targets: tuple[int, ...]
    sources: tuple[int, ...]
    config: InvertConfig

    @property
    def work(self) -> float:
        """Image passes, roughly."""
        return len(self.targets) * sum(s.steps * s.images * s.share for s in self.config.stages)


def search(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    budget: Budget,
    precision: fast.Precision,
    *,
    margins: Float[Tensor, " classes"],
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> tuple[Finding, tuple[Inversion, ...]]:
    """Every family of the budget, one after another, then pairs of classes if nothing was found until then.

    `margins` are the clean margins of all classes. The precision is measured once for all, if it is `auto`.
    Raises ModelError as `invert` does.
    """
    precision = fast.fastest(model, measure.batches(images.x)[0][:MEASURED], precision).precision
    planned = plan(images, targets, budget, precision)
    kinds, whole = list(planned), round(sum(one.work for one in planned.values()))

    def run(kind: str) -> Inversion:
        one, before = planned[kind], sum(planned[k].work for k in kinds[: kinds.index(kind)])

        def tick(now: int, total: int) -> None:
            progress(round(before + one.work * now / total), whole)

        return invert(
            model,
            images,
            one.targets,
            one.family,
            one.config,
            seed=seed,
            sources=one.sources,
            map=map,
            progress=tick,
        )

    found = tuple(run(kind) for kind in kinds if kind != PAIR)
    finding = detect(found, model.classes, model.image_shape, DetectConfig(), margins=margins)
    if PAIR in planned and finding.verdict == "backdoored":
        progress(whole, whole)
    elif PAIR in planned:
        pairs = run(PAIR)
        finding = detect(
            found, model.classes, model.image_shape, DetectConfig(), margins=margins, pairs=pairs
        )
        found = (*found, pairs)
    return finding, found


def plan(
    images: Images, targets: tuple[int, ...], budget: Budget, precision: fast.Precision
) -> dict[str, Search]:
    """Per family; and for all pairs of classes, if there are neither too few nor too many of them."""
    planned = {}
    for kind in BUDGETS[budget]:
        heats = stages(budget, kind, len(targets))
        if kind != PAIR:
            planned[kind] = Search(kind, targets, (), InvertConfig(stages=heats, precision=precision))
            continue
        enough = (images.y.bincount() >= PAIR_IMAGES).nonzero()[:, 0].tolist()
        pairs = [(s, t) for s in enough for t in targets if s != t]
        if pairs and len(targets) in PAIR_CLASSES:
            settings = InvertConfig(stages=heats, memory=0.7, measured=PAIR_MEASURED, precision=precision)
            sources, goals = (tuple(side) for side in zip(*pairs, strict=True))
            planned[kind] = Search("patch", goals, sources, settings)
    return planned
