"""Which triggers a scan looks for, in what order, and when it may stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detrigger import fast, measure
from detrigger.budgets import BUDGETS, Budget, stages
from detrigger.detect import DetectConfig, Finding, detect
from detrigger.escape import from_all, from_each
from detrigger.evidence import Clean
from detrigger.heats import InvertConfig, Map, Progress, serial, silent
from detrigger.images import Images
from detrigger.invert import Inversion, invert
from detrigger.model import Classifier
from detrigger.sources import EACH, EVERY
from detrigger.trigger import FAMILIES

LEAST_CLASSES = 4
"""Classes from which sources are searched: with fewer there is nothing to compare."""

SOURCE_IMAGES = 5
"""Images that a class needs to be searched as a source: of fewer, hardly any can be held out."""

SOURCES: dict[str, dict[str, Any]] = {EACH: {"measured": 24}, EVERY: {"measured": 128, "success": 0.9}}
"""Where searches of sources are not as `InvertConfig` has it: one trigger for all of them need not move each
image, and is measured on images of all."""

MEASURED = 64
"""Images on which the speed of each precision is measured."""


@dataclass(frozen=True)
class Search:
    """One search: a family over all targets, or patches that drive images out of their class."""

    kind: str
    """A family, or a kind of evidence from sources."""
    classes: tuple[int, ...]
    """Targets, or sources."""
    config: InvertConfig

    @property
    def work(self) -> float:
        """Image passes, roughly."""
        goals = 1 if self.kind == EVERY else len(self.classes)
        return goals * sum(s.steps * s.images * s.share for s in self.config.stages)


def search(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    budget: Budget,
    precision: fast.Precision,
    *,
    clean: Clean,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> tuple[Finding, dict[str, Inversion]]:
    """Every family, one after another, then all sources at once, then each of them if nothing was found.

    `clean` is what the model makes of the clean images. The precision is measured once for all, if it is
    `auto`. What is found is given by kind. Raises ModelError as `invert` does.
    """
    precision = fast.fastest(model, measure.batches(images.x)[0][:MEASURED], precision).precision
    planned = plan(images, len(model.classes), targets, budget, precision)
    whole = round(sum(one.work for one in planned))
    found: dict[str, Inversion] = {}

    def run(one: Search, before: float) -> Inversion:
        def tick(now: int, total: int) -> None:
            progress(round(before + one.work * now / total), whole)

        if one.kind == EVERY:
            return from_all(model, images, one.config, seed=seed, map=map, progress=tick)
        if one.kind == EACH:
            return from_each(model, images, one.classes, one.config, seed=seed, map=map, progress=tick)
        return invert(model, images, one.classes, one.kind, one.config, seed=seed, map=map, progress=tick)

    def judge() -> Finding:
        return detect(found, model.classes, model.image_shape, DetectConfig(), clean=clean)

    for number, one in enumerate(planned):
        if one.kind == EACH and judge().verdict == "backdoored":
            progress(whole, whole)
            break
        found[one.kind] = run(one, sum((earlier.work for earlier in planned[:number]), 0.0))
    return judge(), found


def plan(
    images: Images, classes: int, targets: tuple[int, ...], budget: Budget, precision: fast.Precision
) -> tuple[Search, ...]:
    """In order: families, then sources, if there are enough to compare and all classes are targets."""
    enough = tuple((images.y.bincount() >= SOURCE_IMAGES).nonzero()[:, 0].tolist())
    planned = []
    for kind in BUDGETS[budget]:
        heats = stages(budget, kind, len(targets))
        if kind in FAMILIES:
            planned.append(Search(kind, targets, InvertConfig(stages=heats, precision=precision)))
        elif len(enough) >= LEAST_CLASSES and len(targets) == classes:
            config = InvertConfig(stages=heats, precision=precision, **SOURCES[kind])
            planned.append(Search(kind, enough, config))
    return tuple(planned)
