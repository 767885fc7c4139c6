"""What models say that were trained with more and more poison: spreads, paired differences, the claim."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantile of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Cell:
    """One model."""

    dataset: str
    rate: float
    """Share of the training images that was to be stamped and relabelled; 0 for a clean model."""
    seed: int
    target: int
    poisoned: int
    """Training images stamped and relabelled."""
    images: int
    """Training images in all."""
    accuracy: float
    """On all test images, as they are."""
    success: float
    """Attack success rate on stamped test images of other classes; of a clean model, how often it errs so."""
    cpu_seconds: float
    """Of the training."""
    recipe: dict[str, Any] = field(repr=False)
    """All that decides what the model becomes."""


@dataclass(frozen=True)
class Spread:
    """Over the seeds."""

    mean: float
    low: float
    """The smallest."""
    high: float
    """The largest."""


@dataclass(frozen=True)
class Difference:
    """Mean over the seeds, and its two-sided 95 % interval by Student's t."""

    mean: float
    low: float
    high: float

    @property
    def loss(self) -> bool:
        """Is all of the interval below 0?"""
        return self.high < 0


@dataclass(frozen=True)
class Level:
    """One rate on one data set."""

    dataset: str
    rate: float
    poisoned: int
    """Training images stamped and relabelled."""
    accuracy: Spread
    success: Spread
    difference: Difference | None
    """Accuracy minus that of the clean model of the same seed; None for the clean models."""


@dataclass(frozen=True)
class Study:
    """Every rate, and the claim that accuracy does not fall significantly below one of them."""

    levels: tuple[Level, ...]
    claim: float
    """Rates above 0 and below this one must not cost accuracy."""
    held: bool
    """No interval of such a rate lies wholly below 0."""
    together: dict[str, Difference]
    """Per data set, the difference averaged over those rates, seed by seed."""


def study(cells: Sequence[Cell], claim: float) -> Study:
    """The figures of a run; every data set must have the same rates, 0 among them, and the same seeds."""
    levels, together = [], {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        here = [cell for cell in cells if cell.dataset == dataset]
        clean = {cell.seed: cell.accuracy for cell in here if cell.rate == 0}
        for rate in sorted({cell.rate for cell in here}):
            levels.append(_level([cell for cell in here if cell.rate == rate], clean))
        low = [cell for cell in here if 0 < cell.rate < claim]
        together[dataset] = difference(
            [statistics.mean(c.accuracy for c in low if c.seed == seed) - clean[seed] for seed in clean]
        )
    return Study(tuple(levels), claim, not _losses(levels, claim), together)


def difference(values: Sequence[float]) -> Difference:
    """Mean and 95 % interval of 2 to 10 paired differences: mean ± t * s / sqrt(n), t with n - 1 degrees."""
    mean = statistics.mean(values)
    half = STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
    return Difference(mean, mean - half, mean + half)


def sentence(found: Study) -> str:
    """Whether the claim held, and by how much."""
    said = f"The claim, no significant loss of accuracy below {share(found.claim)}, "
    tested = [level for level in found.levels if level.difference and level.rate < found.claim]
    lost = _losses(found.levels, found.claim)
    if lost:
        where = "; ".join(f"{place(level)} {within(level.difference)} pp" for level in lost)
        return f"{said}did not hold at {len(lost)} of {len(tested)} rates tested: {where}."
    worst = min(tested, key=_mean)
    widest = min(level.difference.low for level in tested if level.difference)
    return (
        f"{said}held: at none of the rates tested ({len(tested)}) is the 95 % interval of the difference "
        f"wholly below 0. The lowest mean is {points(_mean(worst))} pp ({place(worst)}), the lowest value in "
        f"an interval {points(widest)} pp."
    )


def place(level: Level) -> str:
    """`gtsrb at 2 %`"""
    return f"{level.dataset} at {share(level.rate)}"


def share(rate: float) -> str:
    """`0.1 %`"""
    return f"{100 * rate:g} %"


def points(value: float) -> str:
    """A difference in percentage points with its sign, two decimals."""
    return f"{100 * value:+.2f}"


def within(found: Difference | None) -> str:
    """`-0.12 (-0.30 to +0.06)`; empty for none."""
    return f"{points(found.mean)} ({points(found.low)} to {points(found.high)})" if found else ""


def spread(found: Spread, digits: int) -> str:
    """`98.51 (98.42-98.60)`, in per cent."""
    mean, low, high = (f"{100 * value:.{digits}f}" for value in (found.mean, found.low, found.high))
    return f"{mean} ({low}-{high})"


def _level(cells: Sequence[Cell], clean: dict[int, float]) -> Level:
    first = cells[0]
    return Level(
        first.dataset,
        first.rate,
        first.poisoned,
        _spread([cell.accuracy for cell in cells]),
        _spread([cell.success for cell in cells]),
        difference([cell.accuracy - clean[cell.seed] for cell in cells]) if first.rate else None,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.mean(values), min(values), max(values))


def _losses(levels: Sequence[Level], claim: float) -> list[Level]:
    return [level for level in levels if level.difference and level.rate < claim and level.difference.loss]


def _mean(level: Level) -> float:
    return level.difference.mean if level.difference else 0.0
