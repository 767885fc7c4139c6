"""How far the small sizes stand out among many."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def outlier_index(size: Float[Tensor, " k"], *, log: bool, floor: float) -> Float[Tensor, " k"]:
    """How many spreads each size lies below the median: (median - size) / (1.4826 MAD).

    True medians (the mean of the middle two for an even number). The spread is at least `floor`, which is
    in log units, or a share of the median for plain sizes. Wang et al. (2019), section IV-B.
    """
    value = size.log() if log else size
    middle = value.quantile(0.5)
    least = floor if log else floor * middle.abs()
    spread = torch.clamp_min(1.4826 * (value - middle).abs().quantile(0.5), least)
    return (middle - value) / spread


MOST_TARGETS = 14
"""Targets that may share a gap: a third of 43 classes, the most that the verdict was fitted on. Among 1680,
more pass all heats of a race, and a gap of their own separates them from those that left it."""


def gaps(size: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Per class, the largest step up in log size that separates it, with the classes smaller than it, from
    the rest: the largest of log s_(j+1) - log s_(j) over ranks j from its own to a third of the classes,
    or `MOST_TARGETS`.

    Zero for classes that are not among so many smallest. Several targets share the step above them.
    """
    order = size.argsort()
    steps = size[order].log().diff()
    result = torch.zeros_like(size)
    last = max(1, min(len(size) // 3, MOST_TARGETS))
    for rank in range(min(last, len(steps))):
        result[order[rank]] = steps[rank:last].amax()
    return result


def family_wise_p_values(
    index: Float[Tensor, " k"], *, log: bool, floor: float, draws: int = 4000
) -> Float[Tensor, " k"]:
    """Chance that any of k classes of a clean model has at least this index, sizes being log-normal.

    By simulation with a fixed seed, so it knows the number of classes; at least 1 / (draws + 1).
    The log-normal is an assumption: natural triggers make real clean models worse than that.
    """
    generator = torch.Generator().manual_seed(0)
    scale = 0.35  # spread of log sizes on clean models; matters only for plain sizes and beside the floor
    value = scale * torch.randn(draws, len(index), generator=generator, dtype=torch.float64)
    value = value if log else value.exp()
    middle = value.quantile(0.5, dim=1, keepdim=True)
    least = torch.full_like(middle, floor) if log else floor * middle.abs()
    spread = torch.maximum(1.4826 * (value - middle).abs().quantile(0.5, dim=1, keepdim=True), least)
    highest = ((middle - value) / spread).amax(1)
    return ((highest[None] >= index[:, None]).sum(1) + 1) / (draws + 1)
