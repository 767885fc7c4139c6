"""Which triggers a scan looks for, in what order, and when it may stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from detrigger import fast, measure
from detrigger.budgets import BUDGETS, Budget, stages
from detrigger.control import ControlConfig, control
from detrigger.detect import DetectConfig, detect
from detrigger.escape import from_all, from_pairs
from detrigger.evidence import HELD, LARGEST, Clean, Natural, clean_answers
from detrigger.finding import Finding
from detrigger.heats import Goal, InvertConfig, Map, Progress, Stage, serial, silent
from detrigger.images import Images
from detrigger.invert import Inversion, invert
from detrigger.model import Classifier
from detrigger.sources import EACH, EVERY, LEAST_DISTINCT
from detrigger.trigger import FAMILIES

LEAST_CLASSES = 4
"""Classes from which pairs of them are searched: with fewer there is nothing to compare."""

SOURCE_IMAGES = 5
"""Images that a class needs to be searched as a source: of fewer, hardly any can be held out."""

PAIRS = 400
"""Pairs of source and target up to which they are searched: 20 classes. The work grows with their number, and
what is known of clean models is known of 90."""

SOURCES: dict[str, dict[str, Any]] = {
    EACH: {"measured": 32, "success": 0.9, "kept": 0.5},
    EVERY: {"measured": 128, "success": 0.9},
}
"""Where searches of sources are not as `InvertConfig` has it: these triggers need not move each image; one
for all sources is measured on images of all, and one for a single source leaves others alone."""

MEASURED = 64
"""Images on which the speed of each precision is measured."""


DOUBTFUL = (0.2, 0.99)
"""Probabilities between which a control is asked: beyond, it would hardly change the verdict."""
KNOWN = (10, 43)
"""Numbers of classes that the verdict was fitted on; with others, nothing above the lower one is sure."""

HURRIED: dict[str, Any] = {"weight": 3.0, "weight_rate": 1.3, "memory": 0.6}
"""As `InvertConfig` with more classes than that, of families: in the few steps that each class has, its size
would not shrink else, and the first heat would tell only how soon the first, large trigger works."""

LEARNED = 0.5
"""Of the scanned network's accuracy, what a control needs to say anything; both on the images it learned."""


@dataclass(frozen=True)
class Search:
    """One search: a family over all targets, or patches that drive images out of their class."""

    kind: str
    """A family, or a kind of evidence from sources."""
    goals: tuple[Goal, ...]
    config: InvertConfig

    @property
    def work(self) -> float:
        """Image passes, roughly."""
        return len(self.goals) * sum(s.steps * s.images * s.share for s in self.config.stages)


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
    """Every family, one after another, then all sources at once, then pairs of them if nothing was found.

    Where that leaves a doubt, it is `held` against a control, which is trained and searched in the same way;
    unless it is known what is `natural`. Pairs of source and target always are. `clean` is what the model
    makes of the clean images. Raises ModelError as `invert` does.
    """

    def judge(found: dict[str, Inversion], natural: Natural | None = None) -> Finding:
        return detect(found, model.classes, model.image_shape, DetectConfig(), clean=clean, natural=natural)

    def enough(found: dict[str, Inversion], following: Search) -> bool:
        return following.kind == EACH and judge(found).verdict == "backdoored"

    found = _searched(model, images, planned, clean.right, enough, seed=seed, map=map, progress=progress)
    passes = sum(i.image_passes for i in found.values())
    finding = judge(found)
    doubtful = _doubtful(finding, images)
    if not (held and (doubtful or EACH in found)):
        return Found(finding, found, passes, natural)
    right: Bool[Tensor, " n"] | None = None
    if natural is None:
        config = ControlConfig.of(len(model.classes), images.x[0, 0].numel())
        network = control(model, images, config, seed=seed, progress=progress)
        logits = measure.logits(network, images.x)
        natural = Natural({}, clean_answers(logits, images.y), network)
        right = natural.clean.right
        passes += config.passes + len(images)
    if not _learned(natural.clean) >= LEARNED * _learned(clean):
        reason = "no control could be trained on these images to say whether that is natural"
        return Found(dataclasses.replace(finding, reasons=(*finding.reasons, reason)), found, passes, None)
    missing = [one for one in planned if doubtful and one.kind in HELD and one.kind not in natural.inversions]
    missing += [_again(one, found[EACH]) for one in planned if one.kind == EACH and EACH in found]
    if missing and natural.network:
        again, twin = tuple(missing), natural.network
        if right is None:  # these images need not be those of the scan that asked for the control
            right = measure.logits(twin, images.x).argmax(1) == images.y
            passes += len(images)
        shown = _searched(twin, images, again, right, _never, seed=-1 - seed, map=map, progress=progress)
        passes += sum(i.image_passes for i in shown.values())
        natural = dataclasses.replace(natural, inversions={**natural.inversions, **shown})
    return Found(judge(found, natural), found, passes, natural)


def _learned(clean: Clean) -> float:
    return clean.right.float().mean().item()


def _again(one: Search, found: Inversion) -> Search:
    """The pairs that came to the last heat, all of them through all heats."""
    last = (found.heats == found.heats.amax()).tolist()
    stages = one.config.stages
    whole = (Stage(sum(s.steps for s in stages), stages[-1].images),)
    pairs = zip(found.targets, found.sources, last, strict=True)
    goals = tuple(Goal(target, source) for target, source, wanted in pairs if wanted)
    return Search(EACH, goals, dataclasses.replace(one.config, stages=whole))


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
    right: Bool[Tensor, " n"],
    enough: Callable[[dict[str, Inversion], Search], bool],
    *,
    seed: int,
    map: Map,
    progress: Progress,
) -> dict[str, Inversion]:
    """One after another, until what was found is enough to leave out the next one.

    Single sources are searched on images given the `right` class: others need not keep what they do not have.
    """
    sure = images
    if any(one.kind == EACH for one in searches):
        sure = images.where(right.to(images.y.device))
        searches = tuple(one for search in searches if (one := _with_sources(search, sure)).goals)
    whole, before = round(sum(one.work for one in searches)), 0.0
    found: dict[str, Inversion] = {}
    for one in searches:
        if enough(found, one):
            progress(whole, whole)
            break

        def tick(now: int, total: int, one: Search = one, before: float = before) -> None:
            progress(round(before + one.work * now / total), whole)

        given = sure if one.kind == EACH else images
        found[one.kind] = _one(model, given, one, seed=seed, map=map, progress=tick)
        before += one.work
    return found


def _with_sources(one: Search, sure: Images) -> Search:
    """Without pairs of whose source too few images are given their class; without any, if that leaves too few
    sources, whose images could keep theirs."""
    if one.kind != EACH:
        return one
    enough = _sources(sure)
    goals = tuple(g for g in one.goals if g.source in enough) if len(enough) >= LEAST_CLASSES else ()
    return dataclasses.replace(one, goals=goals)


def _sources(images: Images) -> tuple[int, ...]:
    return tuple((images.y.bincount() >= SOURCE_IMAGES).nonzero()[:, 0].tolist())


def _one(
    model: Classifier, images: Images, one: Search, *, seed: int, map: Map, progress: Progress
) -> Inversion:
    if one.kind == EVERY:
        return from_all(model, images, one.config, seed=seed, map=map, progress=progress)
    if one.kind == EACH:
        return from_pairs(model, images, one.goals, one.config, seed=seed, map=map, progress=progress)
    targets = tuple(goal.code for goal in one.goals)
    return invert(model, images, targets, one.kind, one.config, seed=seed, map=map, progress=progress)


def plan(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    budget: Budget,
    precision: fast.Precision,
) -> tuple[Search, ...]:
    """In order: families, then sources, if there are enough to compare and all classes are targets; pairs of
    them if there are not too many, and images of which a control shows what is natural.

    The precision is measured once for all, if it is `auto`.
    """
    precision = fast.fastest(model, measure.batches(images.x)[0][:MEASURED], precision).precision
    enough = _sources(images)
    whole = len(targets) == len(model.classes)
    pairs = tuple(Goal(t, s) for s in enough for t in targets if t != s)
    fit = len(pairs) <= PAIRS and max(images.shape[1:]) <= LARGEST
    goals = {
        EVERY: (Goal(None),) if whole and len(enough) >= LEAST_DISTINCT else (),
        EACH: pairs if whole and fit and len(enough) >= LEAST_CLASSES else (),
    }
    planned = []
    for kind in BUDGETS[budget]:
        wanted = goals.get(kind, tuple(Goal(t) for t in targets))
        if wanted:
            heats = stages(budget, kind, len(targets))
            hurried = HURRIED if len(targets) > KNOWN[1] and kind in FAMILIES else {}
            config = InvertConfig(stages=heats, precision=precision, **hurried, **SOURCES.get(kind, {}))
            planned.append(Search(kind, wanted, config))
    return tuple(planned)
