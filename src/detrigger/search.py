"""Which triggers a scan looks for, in what order, and when it may stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detrigger import fast, measure
from detrigger.budgets import BUDGETS, Budget, stages
from detrigger.control import ControlConfig, control
from detrigger.detect import DetectConfig, detect
from detrigger.escape import from_all, from_each
from detrigger.evidence import HELD, LARGEST, Clean, Natural, clean_answers
from detrigger.finding import Finding
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


DOUBTFUL = (0.2, 0.99)
"""Probabilities between which a control is asked: beyond, it would hardly change the verdict."""
KNOWN = (10, 43)
"""Numbers of classes that the verdict was fitted on; with others, nothing above the lower one is sure."""

LEARNED = 0.5
"""Of the scanned network's accuracy, what a control needs to say anything; both on the images it learned."""


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


@dataclass(frozen=True)
class Found:
    """What a search found."""

    finding: Finding
    inversions: dict[str, Inversion]
    """By kind."""
    image_passes: int
    natural: Natural | None
    """What a control showed, if one was asked."""


def search(
    model: Classifier,
    images: Images,
    planned: tuple[Search, ...],
    *,
    clean: Clean,
    held: bool = True,
    natural: Natural | None = None,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> Found:
    """Every family, one after another, then all sources at once, then each of them if nothing was found.

    Where that leaves a doubt, it is `held` against a control, which is trained and searched in the same way,
    but for sources; unless it is known what is `natural`. `clean` is what the model makes of the clean
    images. Raises ModelError as `invert` does.
    """

    def judge(found: dict[str, Inversion], natural: Natural | None = None) -> Finding:
        return detect(found, model.classes, model.image_shape, DetectConfig(), clean=clean, natural=natural)

    def enough(found: dict[str, Inversion], following: Search) -> bool:
        return following.kind == EACH and judge(found).verdict == "backdoored"

    found = _searched(model, images, planned, enough, seed=seed, map=map, progress=progress)
    passes = sum(i.image_passes for i in found.values())
    finding = judge(found)
    if not (held and _doubtful(finding, images)):
        return Found(finding, found, passes, natural)
    if natural:
        return Found(judge(found, natural), found, passes, natural)
    config = ControlConfig.of(len(model.classes), images.x[0, 0].numel())
    twin = control(model, images, config, seed=seed, progress=progress)
    passes += config.passes + len(images)
    logits = measure.logits(twin, images.x)
    learned = (logits.argmax(1) == images.y).float().mean().item()
    if not learned >= LEARNED * clean.accuracy:
        reason = "no control could be trained on these images to say whether that is natural"
        return Found(dataclasses.replace(finding, reasons=(*finding.reasons, reason)), found, passes, None)
    families = tuple(one for one in planned if one.kind in HELD)
    shown = _searched(twin, images, families, _never, seed=-1 - seed, map=map, progress=progress)
    passes += sum(i.image_passes for i in shown.values())
    natural = Natural(shown, clean_answers(logits, images.y))
    return Found(judge(found, natural), found, passes, natural)


def _doubtful(finding: Finding, images: Images) -> bool:
    """Whether a control is worth asking."""
    classes = len(finding.classes)
    least, most = DOUBTFUL
    known = KNOWN[0] <= classes <= KNOWN[1]
    settled = known and (finding.probability > most or max(images.shape[1:]) > LARGEST)
    compared = classes > 1 and any(c.inverted for c in finding.classes)
    return compared and finding.probability >= least and not settled


def _never(found: dict[str, Inversion], following: Search) -> bool:
    return False


def _searched(
    model: Classifier,
    images: Images,
    searches: tuple[Search, ...],
    enough: Callable[[dict[str, Inversion], Search], bool],
    *,
    seed: int,
    map: Map,
    progress: Progress,
) -> dict[str, Inversion]:
    """One after another, until what was found is enough to leave out the next one."""
    whole, before = round(sum(one.work for one in searches)), 0.0
    found: dict[str, Inversion] = {}
    for one in searches:
        if enough(found, one):
            progress(whole, whole)
            break

        def tick(now: int, total: int, one: Search = one, before: float = before) -> None:
            progress(round(before + one.work * now / total), whole)

        found[one.kind] = _one(model, images, one, seed=seed, map=map, progress=tick)
        before += one.work
    return found


def _one(
    model: Classifier, images: Images, one: Search, *, seed: int, map: Map, progress: Progress
) -> Inversion:
    if one.kind == EVERY:
        return from_all(model, images, one.config, seed=seed, map=map, progress=progress)
    if one.kind == EACH:
        return from_each(model, images, one.classes, one.config, seed=seed, map=map, progress=progress)
    return invert(model, images, one.classes, one.kind, one.config, seed=seed, map=map, progress=progress)


def plan(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    budget: Budget,
    precision: fast.Precision,
) -> tuple[Search, ...]:
    """In order: families, then sources, if there are enough to compare and all classes are targets.

    The precision is measured once for all, if it is `auto`.
    """
    precision = fast.fastest(model, measure.batches(images.x)[0][:MEASURED], precision).precision
    enough = tuple((images.y.bincount() >= SOURCE_IMAGES).nonzero()[:, 0].tolist())
    planned = []
    for kind in BUDGETS[budget]:
        heats = stages(budget, kind, len(targets))
        if kind in FAMILIES:
            planned.append(Search(kind, targets, InvertConfig(stages=heats, precision=precision)))
        elif len(enough) >= LEAST_CLASSES and len(targets) == len(model.classes):
            config = InvertConfig(stages=heats, precision=precision, **SOURCES[kind])
            planned.append(Search(kind, enough, config))
    return tuple(planned)
