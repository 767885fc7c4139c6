"""The figures by which a detector and a repair are judged; pure, each from numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Interval = tuple[float, float]
BINS = 10
"""Of a reliability diagram, equally wide."""
DRAWS = 2000
"""Of a bootstrap."""


@dataclass(frozen=True)
class Bin:
    """Models whose probability lies in one range."""

    low: float
    high: float
    count: int
    probability: float
    """Mean; NaN where the bin is empty."""
    backdoored: float
    """Share of the models that are; NaN where the bin is empty."""


def area_under_curve(backdoored: Sequence[float], clean: Sequence[float]) -> float:
    """Probability that a backdoored model scores above a clean one, ties counting half.

    Mann and Whitney 1947. Scores may be any numbers. NaN if there are none of one kind.
    """
    if not backdoored or not clean:
        return math.nan
    difference = np.subtract.outer(np.asarray(backdoored, float), np.asarray(clean, float))
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def area_interval(backdoored: Sequence[float], clean: Sequence[float], *, seed: int = 0) -> Interval:
    """95 % interval of the area: percentiles of DRAWS bootstraps, each kind drawn by itself (Efron 1979)."""
    if not backdoored or not clean:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    areas = []
    for _ in range(DRAWS):
        drawn = (list(generator.choice(scores, len(scores))) for scores in (backdoored, clean))
        areas.append(area_under_curve(*drawn))
    low, high = np.quantile(areas, (0.025, 0.975))
    return float(low), float(high)


def roc_curve(backdoored: Sequence[float], clean: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """False and true positive rate when all scores from a threshold up count as found; from (0, 0) to (1, 1).

    One point per threshold at which something changes. Empty if there are none of one kind.
    """
    if not backdoored or not clean:
        return ()
    points = [(0.0, 0.0)]
    for threshold in sorted({*backdoored, *clean}, reverse=True):
        rates = (sum(s >= threshold for s in scores) / len(scores) for scores in (clean, backdoored))
        false, true = rates
        points.append((false, true))
    return tuple(points)


def detection_rate_at(most: float, backdoored: Sequence[float], clean: Sequence[float]) -> float:
    """Highest true positive rate of a threshold whose false positive rate is at most `most`; NaN as above."""
    curve = roc_curve(backdoored, clean)
    return max((true for false, true in curve if false <= most), default=math.nan)


def brier_score(probabilities: Sequence[float], truth: Sequence[bool]) -> float:
    """Mean squared difference of probability and truth (Brier 1950); 0 is best; NaN if there are none."""
    return mean([(p - t) ** 2 for p, t in zip(probabilities, truth, strict=True)])


def reliability(
    probabilities: Sequence[float], truth: Sequence[bool], *, bins: int = BINS
) -> tuple[Bin, ...]:
    """Models by probability, in equally wide bins; an upper bound belongs to the next bin, but for 1."""
    place = [min(int(p * bins), bins - 1) for p in probabilities]
    made = []
    for number, (low, high) in enumerate(pairwise(i / bins for i in range(bins + 1))):
        inside = [i for i, where in enumerate(place) if where == number]
        shares = mean([probabilities[i] for i in inside]), mean([float(truth[i]) for i in inside])
        made.append(Bin(low, high, len(inside), *shares))
    return tuple(made)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): |probability - share| by bin, weighted by models."""
    total = sum(b.count for b in bins)
    gaps = [b.count * abs(b.probability - b.backdoored) for b in bins if b.count]
    return sum(gaps) / total if total else math.nan


def mean(values: Sequence[float | int]) -> float:
    """NaN if there are none."""
    return float(np.mean(values)) if len(values) else math.nan


def median(values: Sequence[float | int]) -> float:
    """NaN if there are none."""
    return float(np.median(values)) if len(values) else math.nan
