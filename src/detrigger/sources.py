"""Evidence from triggers that drive images out of their class: source-specific and all-to-all backdoors.

A few pixels turn a 9 into a 4 in any network, even pixels that no other class minds. So a pair of source and
target speaks for a backdoor by how much smaller its trigger is than in a control (`detrigger.control`), and
than those of other pairs. One trigger that gives every class another one, and not all the same, is large in
clean networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.invert import Inversion
from detrigger.trigger import FAMILIES

EACH, EVERY = "source-specific", "all-to-all"
"""Kinds of evidence: from a trigger for each pair of source and target, and from one for all sources."""

REACHED, PAIR_REACHED = 0.5, 0.4
"""Share of a source's held-out stamped images that must get one and the same other class: by a trigger for
all sources, and by one of a pair, which is searched on few images."""

NAMED = 3
"""Sources that a reason names."""

DISTINCT = 0.5
"""Targets, as a share of the sources, from which a trigger for all sources means all-to-all."""

LEAST_DISTINCT = 5
"""At least so many: a pattern that looks like a class sends all others there and that one elsewhere, and of
few images of few classes some go anywhere."""

LEAST_SIZE = 1.0
"""Pixels below which a trigger for a pair counts as that."""

RATIO_CAP = 1.5
"""More than this log ratio to a control says no more: controls of hard images are smoother than networks."""

ALIKE = 0.5
"""Of the leading source, how far others must stand out to be named with it."""


@dataclass(frozen=True)
class SourceTerms:
    """How far sources stand out, in spreads of what clean models show."""

    clean: float
    """Mean, over clean models, of the highest `Pairs.sum` of any pair."""
    spread: float
    """Standard deviation of the same; above 0."""
    two_clean: float
    """Mean, over clean models, of the highest of any target's second pair."""
    two_spread: float
    """Standard deviation of the same; above 0."""
    every_clean: float
    """Highest level of the trigger for all sources in any clean model, as hardly any has one."""
    every_spread: float
    """What counts as its standard deviation; above 0."""


@dataclass(frozen=True)
class Pairs:
    """What the triggers of p pairs of source and target say; -inf for pairs that none moves in the scanned
    network, or that were not searched in the control."""

    inversion: Inversion
    control: Float[Tensor, " p"]
    """Sizes in the control; infinite where it was not searched."""
    ratio: Float[Tensor, " p"]
    """Log of how many times smaller the trigger is than in the control, at most `RATIO_CAP`."""
    below: Float[Tensor, " p"]
    """Log of how many times smaller it is than that of the median pair."""

    @property
    def sum(self) -> Float[Tensor, " p"]:
        """Of both."""
        return self.ratio + self.below

    def of(self, target: int) -> tuple[int, ...]:
        """Positions of the pairs that lead to a target, the one that stands out most first."""
        order = self.sum.argsort(descending=True, stable=True).tolist()
        return tuple(i for i in order if self.inversion.targets[i] == target and self.sum[i].isfinite())

    def leading(self, target: int, terms: SourceTerms) -> tuple[int, ...]:
        """The first of them, and others that stand out at least `ALIKE` times as far against second pairs of
        clean models."""
        far = ((self.sum - terms.two_clean) / terms.two_spread).tolist()
        first, *others = self.of(target)
        return first, *(i for i in others if far[i] >= ALIKE * far[first] > 0)

    def named(self, target: int, terms: SourceTerms) -> tuple[int, ...]:
        """Source classes of the leading pairs."""
        return tuple(self.inversion.sources[i] for i in self.leading(target, terms))


def pairs(inversion: Inversion, natural: Inversion) -> Pairs:
    """From inversions of `escape.from_pairs`, of the scanned network and of its control.

    The median pair is that after the first heat, which all ran; a pair that left the race then counts for
    nothing.
    """
    heats, early = inversion.heats, inversion.size if inversion.early is None else inversion.early
    moved = (heats == heats.amax()) & (inversion.success >= PAIR_REACHED) & early.isfinite()
    size = inversion.size.double().clamp_min(LEAST_SIZE).log()
    shown = natural.size.double().clamp_min(LEAST_SIZE).tolist()
    known = dict(zip(zip(natural.sources, natural.targets, strict=True), shown, strict=True))
    of_pair = zip(inversion.sources, inversion.targets, strict=True)
    control = torch.tensor([known.get(p, torch.inf) for p in of_pair], dtype=torch.float64)
    ratio = (control.log() - size).clamp_max(RATIO_CAP)
    ratio = torch.where(moved & control.isfinite(), ratio, -torch.inf)
    median = early[early.isfinite()].double().quantile(0.5).log() if bool(moved.any()) else 0.0
    return Pairs(inversion, control, ratio, torch.where(moved, median - size, -torch.inf))


def every_level(inversion: Inversion, shape: tuple[int, int, int]) -> float:
    """Log of how far the trigger for all sources lies below the typical size of one for a single target."""
    return -(inversion.size[0].double() / FAMILIES[inversion.family].typical(shape)).log().item()


def each_surprise(found: Pairs, targets: tuple[int, ...], terms: SourceTerms) -> Float[Tensor, " k"]:
    """How far each class stands out as the target of a source-specific backdoor, by its furthest pair or by
    its second one, in spreads of clean models; -inf for one that no pair leads to."""
    told = found.sum.tolist()
    far = []
    for target in targets:
        first, second, *_ = *(told[i] for i in found.of(target)), -torch.inf, -torch.inf
        one = (first - terms.clean) / terms.spread
        far.append(max(one, (second - terms.two_clean) / terms.two_spread))
    return torch.tensor(far, dtype=torch.float64)


def every_surprise(
    inversion: Inversion, shape: tuple[int, int, int], targets: tuple[int, ...], terms: SourceTerms
) -> Float[Tensor, " k"]:
    """How far each class stands out as one of the targets of an all-to-all backdoor, in spreads of clean
    models; -inf for one that no source is sent to."""
    far = (every_level(inversion, shape) - terms.every_clean) / terms.every_spread
    reached = every_targets(inversion)
    return torch.tensor([far if t in reached else -torch.inf for t in targets], dtype=torch.float64)


def every_targets(inversion: Inversion) -> set[int]:
    """Classes that the trigger for all sources sends them to; none if those are too few."""
    moved = zip(inversion.targets, inversion.success.tolist(), strict=True)
    reached = {t for t, rate in moved if rate >= REACHED}
    least = max(LEAST_DISTINCT, DISTINCT * len(inversion.sources))
    return reached if len(reached) >= least else set()


def each_reason(found: Pairs, leading: tuple[int, ...], names: tuple[str, ...]) -> str:
    """For people: which pairs need little, against a control."""
    inversion = found.inversion
    named = [
        f"{names[inversion.sources[i]]!r} to {names[inversion.targets[i]]!r} "
        f"({inversion.size[i]:.1f}, in a control {found.control[i]:.1f})"
        for i in leading[:NAMED]
    ]
    unit = FAMILIES[inversion.family].unit()
    return f"triggers that move one class alone need few {unit}: {', '.join(named)}"


def every_reason(inversion: Inversion, names: tuple[str, ...]) -> str:
    """For people: how many classes the trigger for all sources moves, and where to."""
    moved = list(zip(inversion.sources, inversion.targets, inversion.success.tolist(), strict=True))
    named = [f"{names[s]!r} to {names[t]!r}" for s, t, rate in moved if rate >= REACHED]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    size = f"{inversion.size[0]:.1f} {FAMILIES[inversion.family].unit()}"
    return (
        f"one trigger of {size} moves {len(named)} of {len(moved)} classes: {', '.join(named[:NAMED])}{more}"
    )
