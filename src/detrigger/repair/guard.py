"""The judge of repairs: a candidate that makes the model worse is not returned.

The clean images are split three ways. Repairs are made from the first part, chosen by the second, and the one
that was chosen is certified on the third, which neither it nor any search for triggers has seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from detrigger import measure
from detrigger.errors import UsageError
from detrigger.images import Images, split
from detrigger.model import Classifier
from detrigger.trigger import Trigger, stamped

Sources = Literal["all"] | tuple[int, ...]
"""Classes whose images a trigger is for."""

SELECTED = 0.4
"""Of the held-out images, the share by which candidates are chosen; the rest certifies."""

STRONGER = 3
"""Times over that images are stamped to see whether a repair holds against more than the weakest trigger."""

ONE_ERROR = 1 - NormalDist().cdf(1.0)
"""Chance that one class falls by more than one standard error."""

CONFIDENCE = 0.95
"""Of every bound."""


@dataclass(frozen=True)
class GuardConfig:
    """When a repaired model is good enough.

    So that few images do not refuse by chance alone, accuracy and recall may fall by one standard error of
    the difference beyond their limits (by more for recall, the more classes there are: one of them falls by
    chance), and one image is forgiven; the bounds say how little few images prove.
    Where nothing was found there may be nothing to gain, and nothing is forgiven (`Known.must_fail`).
    Raises UsageError for shares outside [0, 1].
    """

    accuracy_drop: float = 0.02
    """Clean accuracy that may be lost, as a share of held-out images; 0 to 1."""
    recall_drop: float = 0.10
    """Recall that any one class may lose, as a share of its held-out images; 0 to 1."""
    target_recall_drop: float = 0.05
    """The same for the target of a backdoor, which careless repairs forget first; 0 to 1."""
    success: float = 0.05
    """Highest attack success rate that any synthesised trigger may keep on held-out images, beyond the share
    of them that the original gives the target without it; 0 to 1."""

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise UsageError(f"the guard's {name.replace('_', '-')} is {share:g}, wanted 0 to 1")


@dataclass(frozen=True)
class Parts:
    """Disjoint clean images, of every class in each where there are enough."""

    fit: Images
    """Repairs are made from these."""
    select: Images
    """Candidates are chosen by these."""
    certify: Images
    """Seen by the chosen candidate alone."""

    @property
    def scanned(self) -> Images:
        """What a rescan may see: all but those that certify."""
        parts = (self.fit, self.select)
        x, y = torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts])
        return Images(x, y, self.fit.names, self.fit.path, self.fit.sha256)


@dataclass(frozen=True)
class Known:
    """Synthesised triggers that a repair is to make fail."""

    triggers: tuple[Trigger, ...] = ()
    """Stacks of one."""
    targets: tuple[int, ...] = ()
    """One per trigger."""
    sources: tuple[Sources, ...] = ()
    """One per trigger."""
    must_fail: bool = True
    """They are backdoors. Else they may be natural: how often they work is measured, but refuses nothing, and
    losses are not forgiven as chance."""
    beside: tuple[tuple[Trigger, int], ...] = ()
    """More triggers, with their targets, that repairs are made with and not judged by."""


@dataclass(frozen=True)
class Judgement:
    """A candidate against the original, on images not used to make it."""

    accepted: bool
    reason: str
    """One sentence: why it was or was not accepted."""
    images: int
    """Held-out images it was judged on."""
    accuracy_before: float
    accuracy_after: float
    recall_drop: dict[str, float]
    """Per class name: recall before minus after; classes without held-out images are left out."""
    success_before: tuple[float, ...]
    """Attack success rate per synthesised trigger, on the original."""
    success_after: tuple[float, ...]
    """The same on the candidate."""
    success_upper95: tuple[float, ...]
    """One-sided 95 % Clopper-Pearson upper bound on `success_after`."""
    stronger_after: tuple[float, ...]
    """As `success_after`, stamped `STRONGER` times over: the attacker's trigger is mostly stronger, too."""
    natural: tuple[float, ...]
    """Share of each trigger's images that the original gives its target without it."""
    robust_after: tuple[float, ...]
    """Share of the stamped images that the candidate gives their own label."""
    loss_upper95: float
    """One-sided 95 % upper bound on the accuracy lost, from the images whose prediction changed."""
    looks: int = 0
    """How many candidates had been judged on these images by then, and the bounds allow for it; 0: they
    do not."""


def parts(images: Images, held_out: float, *, seed: int) -> Parts:
    """Split the clean images. With the seed of a scan of these images, `certify` has none it searched on.

    Raises DataError for too few images: wanted are four or more of a class.
    """
    shares = (1 - held_out, held_out * SELECTED, held_out * (1 - SELECTED))
    return Parts(*split(images, shares, seed=seed))


def judge(
    original: Classifier,
    candidate: Classifier,
    images: Images,
    known: Known,
    config: GuardConfig,
    *,
    looks: int = 0,
) -> Judgement:
    """Compare on held-out images. With `looks`, they are looked at for the so many-th time, from 1.

    The k-th look gets 2/4^k of the error that the confidence allows. Over every way in which the verdicts of
    earlier looks can lead to later candidates (2^(k-1) of them) that adds up to less than all of it, so the
    bounds hold for whichever candidate is returned (Bonferroni, spent unevenly).
    """
    confidence = 1 - (1 - CONFIDENCE) * (2 / 4**looks if looks else 1)
    before, after = (measure.predictions(m, images.x) for m in (original, candidate))
    right = [p == images.y for p in (before, after)]
    accuracy = [r.float().mean().item() for r in right]
    drops = measure.recall_drops(before, after, images.y, len(images.names))
    shown = [_Stamped(images, known, i) for i in range(len(known.targets))]
    hits = [[s.given(m) == s.target for s in shown] for m in (original, candidate)]
    success = [_shares(row) for row in hits]
    changed = right[0] != right[1]
    chance = math.sqrt(max(1, int(changed.sum()))) / len(images) if known.must_fail else 0.0
    allowed = config.accuracy_drop + chance
    natural = tuple(s.natural(original) for s in shown)
    kept = [
        share / (without + _allowed(config.success, len(s.x)))
        for share, without, s in zip(success[1], natural, shown, strict=True)
    ]
    failures = [
        *(_too_successful(success[1], kept, config) if known.must_fail else ()),
        *_too_inaccurate(accuracy, allowed, config),
        *_forgotten(drops, changed, images, known, config),
    ]
    works = f"triggers work on at most {max(success[1]):.1%} of held-out images, " if known.targets else ""
    reason = " and ".join(failures) or (
        f"{works}clean accuracy {accuracy[0]:.1%} before and {accuracy[1]:.1%} after"
    )
    return Judgement(
        accepted=not failures,
        reason=reason,
        images=len(images),
        accuracy_before=accuracy[0],
        accuracy_after=accuracy[1],
        recall_drop={n: d for n, d in zip(images.names, drops.tolist(), strict=True) if d == d},
        success_before=success[0],
        success_after=success[1],
        success_upper95=tuple(measure.upper_bound(int(h.sum()), len(h), confidence) for h in hits[1]),
        stronger_after=_shares([s.given(candidate, times=STRONGER) == s.target for s in shown]),
        natural=natural,
        robust_after=_shares([s.given(candidate) == s.labels for s in shown]),
        loss_upper95=measure.loss_bound(
            int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()), len(images), confidence
        ),
        looks=looks,
    )


def of_sources(images: Images, sources: Sources) -> Images:
    """Those of the classes that a trigger is for."""
    if sources == "all":
        return images
    return images.where(torch.isin(images.y, torch.tensor(sources, device=images.y.device)))


class _Stamped:
    """Images that a trigger is for."""

    def __init__(self, images: Images, known: Known, i: int) -> None:
        self.trigger, self.target = known.triggers[i], known.targets[i]
        others = of_sources(images, known.sources[i])
        wanted = others.y != self.target
        self.x, self.labels = others.x[wanted], others.y[wanted]

    def natural(self, model: Classifier) -> float:
        """Share of them that a model gives the target as they are; 0 without images."""
        return (measure.predictions(model, self.x) == self.target).float().sum().item() / max(1, len(self.x))

    def given(self, model: Classifier, *, times: int = 1) -> Int[Tensor, " m"]:
        """Classes they are given, stamped so many times over."""
        parts = measure.batches(self.x)
        return torch.cat([measure.predictions(model, stamped(self.trigger, x, times)) for x in parts])


def _shares(hits: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(h.float().mean().item() for h in hits)


def _allowed(limit: float, count: int) -> float:
    return max(limit, 1 / count) if count else 1.0


def _too_successful(success: Sequence[float], kept: Sequence[float], config: GuardConfig) -> list[str]:
    if all(k <= 1 + 1e-6 for k in kept):  # NaN, without images to measure on, fails too
        return []
    return [
        f"a synthesised trigger still works on {max(success):.1%} of held-out images "
        f"(at most {config.success:.0%} allowed)"
    ]


def _errors(compared: Tensor) -> float:
    """Standard errors by which the furthest of so many classes may fall beyond a limit with the chance with
    which one class falls by more than one (Bonferroni)."""
    return NormalDist().inv_cdf(1 - ONE_ERROR / max(1, int(compared.sum())))


def _too_inaccurate(accuracy: Sequence[float], allowed: float, config: GuardConfig) -> list[str]:
    if accuracy[0] - accuracy[1] <= allowed + 1e-6:
        return []
    return [
        f"clean accuracy falls from {accuracy[0]:.1%} to {accuracy[1]:.1%} (at most {allowed:.1%} allowed)"
    ]


def _forgotten(
    drops: Tensor, changed: Tensor, images: Images, known: Known, config: GuardConfig
) -> list[str]:
    """Of the class whose recall falls furthest beyond what is allowed, if any does."""
    limit = torch.full((len(images.names),), config.recall_drop)
    limit[list(known.targets)] = min(config.recall_drop, config.target_recall_drop)
    if known.must_fail:
        counts, moved = (y.cpu().bincount(minlength=len(images.names)) for y in (images.y, images.y[changed]))
        aimed = torch.zeros(len(counts), dtype=torch.bool)
        aimed[list(known.targets)] = True
        errors = torch.where(aimed, _errors(aimed & (counts > 0)), _errors(~aimed & (counts > 0)))
        limit = limit + errors * moved.clamp_min(1).sqrt() / counts
    excess = (drops - limit).nan_to_num(-1.0)
    worst = int(excess.argmax())
    if excess[worst] <= 1e-6:
        return []
    kind = "the target class" if worst in known.targets else "class"
    return [
        f"recall of {kind} {images.names[worst]!r} falls by {drops[worst]:.1%} "
        f"(at most {limit[worst]:.1%} allowed)"
    ]
