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
    """Log-odds of a source-specific target, and of an all-to-all backdoor: sums of few terms."""

    intercept: float
    gap: float
    """Per unit of log gap between the leading target's smallest pair and any other target's."""
    level: float
    """Per unit of log size below what is natural for a pair."""
    all_intercept: float
    all_level: float
    """The same for the third pair of a matching, in the log-odds of all-to-all."""


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


def pair_probabilities(found: PairFeatures, terms: PairTerms) -> tuple[float, float]:
    """That the leader is a source-specific target, and that the model is backdoored all-to-all."""
    specific = terms.intercept + terms.gap * found.gap + terms.level * found.level
    every = terms.all_intercept + terms.all_level * found.matching_level
    both = torch.tensor([specific, every], dtype=torch.float64).sigmoid()
    return (both[0].item() if found.leader is not None else 0.0), both[1].item()
