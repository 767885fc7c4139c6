"""What the sizes of synthesised triggers say about each class: features, and how far they stand out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detrigger.invert import Inversion
from detrigger.outliers import gaps, outlier_index
from detrigger.trigger import FAMILIES


@dataclass(frozen=True)
class Terms:
    """How far a class stands out by one kind of trigger, in spreads of what clean models show."""

    index: float
    """Weight of the outlier index of log size, of which at most `INDEX_CAP` counts."""
    gap: float
    """Weight of the log gap to the next larger class."""
    level: float
    """Weight of the log of how far the size lies below the typical size of the family."""
    clean: float
    """Mean, over clean models, of the highest weighted sum of any class."""
    spread: float
    """Standard deviation of the same; above 0."""


INDEX_CAP = 8.0
"""An outlier index above this says no more than this."""


@dataclass(frozen=True)
class Features:
    """What the sizes of one family's triggers say about each of k classes."""

    inversion: Inversion
    inverted: Bool[Tensor, " k"]
    index: Float[Tensor, " k"]
    gap: Float[Tensor, " k"]
    level: Float[Tensor, " k"]


def features(
    inversion: Inversion, shape: tuple[int, int, int], *, success: float, log: bool, floor: float
) -> Features:
    """The index compares classes as if all had been searched to the end.

    A class is inverted from this `success` on held-out images; `log` and `floor` are those of the index.
    For the gap, classes that could not be inverted count as the largest size seen.
    """
    inverted = inversion.success >= success
    size = inversion.size.double()
    return Features(
        inversion,
        inverted,
        outlier_index(comparable(inversion, inverted), log=log, floor=floor),
        gaps(torch.where(inverted, size, size.amax())),
        -(size / FAMILIES[inversion.family].typical(shape)).log(),
    )


def comparable(inversion: Inversion, inverted: Bool[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Sizes as if no class had left the race.

    A class that left it is taken to shrink, from its size after the first heat, as the median finalist did,
    but not below the median finalist; one that had no trigger by then counts as the largest of the others.
    Finalists that could not be inverted count as the largest size seen.
    """
    finalist = inversion.heats == inversion.heats.amax()
    size = inversion.size.double()
    early = size if inversion.early is None else inversion.early.double()
    sure = finalist & inverted
    if not bool(sure.any()):
        return torch.full_like(size, size.amax().item())
    seen = sure & early.isfinite()
    shrink = (size[seen].log() - early[seen].log()).quantile(0.5).exp() if bool(seen.any()) else 1.0
    guess = (early * shrink).clamp_min(size[sure].quantile(0.5))
    result = torch.where(sure, size, torch.where(finalist, size.amax(), guess))
    return result.clamp_max(result[result.isfinite()].amax())


def surprise(found: Features, terms: Terms) -> Float[Tensor, " k"]:
    """How far each class stands out, in spreads of clean models; -inf for one that could not be inverted."""
    weighted = (
        terms.index * found.index.clamp_max(INDEX_CAP) + terms.gap * found.gap + terms.level * found.level
    )
    return torch.where(found.inverted, (weighted - terms.clean) / terms.spread, -torch.inf)
