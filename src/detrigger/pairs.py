"""Evidence from triggers for pairs (source, target): source-specific and all-to-all backdoors.

A trigger that works on one class's images alone is small for many natural pairs (a 9 becomes a 4 by one
stroke), so what counts is how far one target leads before all others, and whether several pairs that share
neither source nor target are small at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.invert import Inversion
from detrigger.trigger import FAMILIES

PAIR = "pair"
"""Kind of evidence that comes from triggers for one source and one target."""

NATURAL = 0.25
"""Size that pairs of clean models need, as a share of what all sources together need."""
MATCHED = 3
"""Pairs without a common source or target that all-to-all must show."""


@dataclass(frozen=True)
class PairTerms:
    """How far pairs stand out, in spreads of what clean models show."""

    gap: float
    """Weight of the log gap between the leading target's smallest pair and any other target's."""
    level: float
    """Weight of the log of how far that pair lies below what is natural for a pair."""
    clean: float
    """Mean of their sum over clean models."""
    spread: float
    """Standard deviation of the same; above 0."""
    all_clean: float
    """Mean, over clean models, of the level of the third pair of a matching: evidence of all-to-all."""
    all_spread: float
    """Standard deviation of the same; above 0."""


@dataclass(frozen=True)
class PairFeatures:
    """What the pairs say."""

    inversion: Inversion
    smallest: dict[int, int]
    """Per target, position in the inversion of its smallest pair that was inverted, if any."""
    leader: int | None
    """Target of the smallest pair of all."""
    gap: float
    level: float
    matching: tuple[int, ...]
    """Positions of small pairs with neither source nor target in common, smallest first."""
    matching_level: float


def pair_features(inversion: Inversion, shape: tuple[int, int, int], inverted: float) -> PairFeatures:
    """From an inversion with one source per target. Pairs that left the race early do not count."""
    natural = NATURAL * FAMILIES[inversion.family].typical(shape)
    finished = (inversion.heats == inversion.heats.amax()) & (inversion.success >= inverted)
    below: Float[Tensor, " k"] = -(inversion.size / natural).log()
    order = [i for i in below.argsort(descending=True).tolist() if finished[i]]
    smallest: dict[int, int] = {}
    matching: list[int] = []
    for i in order:
        smallest.setdefault(inversion.targets[i], i)
        if all(
            inversion.targets[i] != inversion.targets[j] and inversion.sources[i] != inversion.sources[j]
            for j in matching
        ):
            matching.append(i)
    levels = [below[i].item() for i in smallest.values()]
    floor = below[finished].amin().item() if order else 0.0
    third = below[matching[MATCHED - 1]].item() if len(matching) >= MATCHED else floor - 1
    return PairFeatures(
        inversion=inversion,
        smallest=smallest,
        leader=inversion.targets[order[0]] if order else None,
        gap=levels[0] - (levels[1] if len(levels) > 1 else floor) if levels else 0.0,
        level=levels[0] if levels else 0.0,
        matching=tuple(matching),
        matching_level=third,
    )


def pair_surprise(found: PairFeatures, targets: tuple[int, ...], terms: PairTerms) -> Float[Tensor, " k"]:
    """How far each class stands out as the target of a source-specific or of an all-to-all backdoor.

    In spreads of clean models; -inf for a class of which pairs say nothing.
    """
    specific = (terms.gap * found.gap + terms.level * found.level - terms.clean) / terms.spread
    every = (found.matching_level - terms.all_clean) / terms.all_spread
    matched = {found.inversion.targets[i] for i in found.matching}
    far = [
        max(specific if t == found.leader else -torch.inf, every if t in matched else -torch.inf)
        for t in targets
    ]
    return torch.tensor(far, dtype=torch.float64)
