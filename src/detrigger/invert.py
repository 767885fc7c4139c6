"""Trigger synthesis for many classes at once: eq. (5) of Menisov (2022).

For each class t: min over the parameters of a trigger T of loss(y_t, f(T(x))) + beta |T|; for a patch, T(x)
is (1 - m) x + m p. Classes race: all of them start, the ones with the smallest triggers go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detrigger import fast, measure
from detrigger.heats import (
    LEAST,
    Chunk,
    Goal,
    Heat,
    InvertConfig,
    Map,
    Progress,
    Stage,
    Tensors,
    serial,
    silent,
    start,
)
from detrigger.images import Images, split
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES, Trigger

PIXELS = 40 * 64 * 64
"""Of all images in one pass on a CPU, where more are no faster; a GPU takes eight times as many."""


@dataclass(frozen=True)
class Inversion:
    """The smallest trigger found for each of k target classes."""

    family: str
    targets: tuple[int, ...]
    trigger: Trigger = field(repr=False)
    """A stack of k."""
    size: Float[Tensor, " k"]
    """In the unit of the family."""
    success: Float[Tensor, " k"]
    """Attack success rate in fp32 on held-out images that are not of the target class."""
    heats: Int[Tensor, " k"]
    """How many heats each class took part in."""
    image_passes: int
    precision: fast.Precision = "fp32"
    """Of the search."""
    sources: tuple[int, ...] = ()
    """One per target, if triggers were to work on one class of images only; empty: on all."""
    early: Float[Tensor, " k"] | None = None
    """The size after the first heat, which all ran, infinite where no trigger held yet; None: the size."""


@dataclass(frozen=True)
class Race:
    """The smallest trigger found for each of k goals, not yet measured."""

    family: str
    goals: tuple[Goal, ...]
    trigger: Trigger = field(repr=False)
    """A stack of k."""
    heats: Int[Tensor, " k"]
    early: Float[Tensor, " k"]
    """As in `Inversion`."""
    image_passes: int
    precision: fast.Precision
    held_out: Images = field(repr=False)
    """Images that were not searched on."""
    config: InvertConfig
    seed: int

    def tests(self, i: int) -> Images:
        """Held-out images to measure a trigger on: fewer for one that left the race."""
        finalist = bool(self.heats[i] == len(self.config.stages))
        count = self.config.measured if finalist else self.config.measured // 4
        return sample(self.held_out, self.goals[i], count, self.seed)

    def answers(self, model: Classifier) -> list[Float[Tensor, "_n classes"]]:
        """Per goal, the logits of its `tests` with its trigger."""
        return [measure.logits(model, self.tests(i).x, self.trigger[i]) for i in range(len(self.goals))]


def invert(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    family: str,
    config: InvertConfig,
    *,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> Inversion:
    """Smallest trigger of a family for each target class.

    A class's result depends on the model, the images, the seed, the config, and on how far it got in the
    race; not on how classes were put into chunks (up to rounding). Images of the target class are left out
    for it. Raises ModelError for a network whose outputs or gradients are not finite.
    """
    goals = tuple(Goal(target) for target in targets)
    done = race(model, images, goals, family, config, seed=seed, map=map, progress=progress)
    return inverted(model, done, targets)


def inverted(
    model: Classifier, done: Race, targets: tuple[int, ...], sources: tuple[int, ...] = ()
) -> Inversion:
    """What came of a race for these targets, measured on held-out images."""
    answers = done.answers(model)
    success = [(a.argmax(1) == t).float().mean() for a, t in zip(answers, targets, strict=True)]
    return Inversion(
        done.family,
        targets,
        done.trigger,
        done.trigger.size(),
        torch.stack(success).cpu(),
        done.heats,
        done.image_passes + sum(len(a) for a in answers),
        done.precision,
        sources,
        done.early,
    )


def race(
    model: Classifier,
    images: Images,
    goals: tuple[Goal, ...],
    family: str,
    config: InvertConfig,
    *,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> Race:
    """The search of `invert`, for goals of any kind."""
    searched, held_out = split(images, (1 - config.held_out, config.held_out), seed=seed)
    together = _together(config.batch, images)
    quick = fast.fastest(model, searched.x[:together], config.precision)
    counts = [_starters(stage, len(goals)) for stage in config.stages]
    total = sum(stage.steps * n for stage, n in zip(config.stages, counts, strict=True))
    done = 0

    def tick(classes: int) -> None:
        nonlocal done
        done += classes
        progress(done, total)

    rows = start(family, goals, images.shape, config, seed)
    early = rows["best"]
    heats = torch.zeros(len(goals), dtype=torch.long)
    for number, (stage, count) in enumerate(zip(config.stages, counts, strict=True)):
        racing = _order(rows)[:count].sort().values
        heats[racing] += 1
        groups = {
            Chunk(family, number, tuple(goals[i] for i in group), _rows(rows, group), seed): group
            for group in _groups(racing, stage.images, together)
        }
        run = Heat(quick, searched, stage, config, seed + 7919 * number)
        for chunk, result in map(run, groups, tick):
            for name, value in result.items():
                rows[name][groups[chunk]] = value
        early = rows["best"].clone() if number == 0 else early
    if done < total:  # classes stopped early, or chunks were taken from an earlier run
        progress(total, total)
    best = {n.removeprefix("best:"): r.to(images.x) for n, r in rows.items() if n.startswith("best:")}
    trigger = FAMILIES[family].build(best, images.shape)
    passes = int(rows["passes"].sum())
    return Race(family, goals, trigger, heats, early, passes, quick.precision, held_out, config, seed)


def _together(batch: int, images: Images) -> int:
    """Images per pass, for their size and device."""
    pixels = PIXELS * 8 if images.x.is_cuda else PIXELS
    return max(1, min(batch, pixels // (images.shape[1] * images.shape[2])))


def _groups(racing: Int[Tensor, " k"], images: int, together: int) -> tuple[Int[Tensor, " _k"], ...]:
    """Classes that share batches, for so many images per class and so many that fit into one pass.

    An even number of groups of like size, so that two workers end together; but a small batch is not worth
    spreading. How many workers there are must not matter: in another batch, rounding is another.
    """
    k = len(racing)
    spread = min(k, 2 * math.ceil(k / max(1, together // images) / 2))
    groups: tuple[Tensor, ...] = racing.tensor_split(1 if k * images <= together // 6 else spread)
    return groups


def _rows(rows: Tensors, group: Int[Tensor, " k"]) -> Tensors:
    """Those of a group; where they are neighbours, without a copy: with many classes they are large."""
    first, last = int(group[0]), int(group[-1])
    if last - first + 1 == len(group):
        return {name: row[first : last + 1] for name, row in rows.items()}
    return {name: row[group] for name, row in rows.items()}


def _order(rows: Tensors) -> Int[Tensor, " k"]:
    """Smallest trigger first; those without one last, by how often they succeed."""
    none = rows["best"].isinf()
    return torch.where(none, 1e12 * (2 - rows["success"]), rows["best"]).argsort(stable=True)


def _starters(stage: Stage, classes: int) -> int:
    return min(classes, max(LEAST, round(stage.share * classes)))


def sample(images: Images, goal: Goal, count: int, seed: int) -> Images:
    """At most `count` images that the goal is about, drawn at random."""
    others = goal.victims(images.y)
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return images.where(others[order[:count]].to(images.x.device))
