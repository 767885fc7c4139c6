"""Where things go in the charts of the HTML page, in per cent of a chart's width and height."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from detrigger.report import words
from detrigger.report.schema import ClassRecord
from detrigger.report.schema_repair import CurveStop

ALL = 60
"""Up to so many classes, each gets a row."""
SMALLEST = 40
"""Rows where there are more classes than that."""
BINS = 48
"""Of the histogram of all sizes."""


@dataclass(frozen=True)
class Tick:
    """A labelled line on an axis."""

    at: float
    """Per cent from the start of the axis."""
    label: str


@dataclass(frozen=True)
class Row:
    """One class in the chart of sizes."""

    record: ClassRecord
    at: float | None
    """Per cent from the left; None for a class without a size."""


@dataclass(frozen=True)
class Bin:
    """One bar of the histogram of sizes."""

    at: float
    width: float
    height: float


@dataclass(frozen=True)
class Sizes:
    """Trigger sizes per class on a log axis."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    median: Tick | None
    """Of the classes that have a trigger."""
    hidden: int
    """Classes without a row."""
    digits: int
    """Of the longest index."""
    bins: tuple[Bin, ...]
    """Histogram of all classes; empty where each has a row."""
    marks: tuple[float, ...]
    """Suspects in the histogram, per cent from the left."""


@dataclass(frozen=True)
class Segment:
    """A straight piece of a curve, in per cent from the left and from the top."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Curves:
    """Accuracy and attack success rate over the course of a repair."""

    accuracy: tuple[Segment, ...]
    success: tuple[Segment, ...]
    ticks: tuple[Tick, ...]
    """Of the horizontal axis."""
    levels: tuple[Tick, ...]
    """Of the vertical axis, per cent from the top."""


def sizes(classes: Sequence[ClassRecord]) -> Sizes:
    """The chart of trigger sizes: suspects first, then the smallest; of many classes only the smallest."""
    ordered = sorted(classes, key=words.suspicion)
    shown = ordered if len(ordered) <= ALL else ordered[:SMALLEST]
    hidden, digits = len(ordered) - len(shown), max((len(str(c.index)) for c in shown), default=1)
    known = [c.size for c in classes if c.size is not None and c.size > 0]
    if not known:
        return Sizes(tuple(Row(c, None) for c in shown), (), None, hidden, digits, (), ())
    low, high = math.log10(min(known) / 1.3), math.log10(max(known) * 1.3)

    def at(size: float) -> float:
        return round(100 * (math.log10(max(size, 10**low)) - low) / (high - low), 2)

    inverted = [c.size for c in classes if c.inverted and c.size is not None and c.size > 0]
    middle = statistics.median(inverted) if inverted else None
    return Sizes(
        rows=tuple(Row(c, None if c.size is None else at(c.size)) for c in shown),
        ticks=tuple(Tick(at(v), words.number(v)) for v in _round_values(low, high)),
        median=None if middle is None else Tick(at(middle), words.number(middle)),
        hidden=hidden,
        digits=digits,
        bins=_histogram([at(v) for v in known]) if hidden else (),
        marks=tuple(at(c.size) for c in ordered if c.suspect and c.size is not None),
    )


def curves(stops: Sequence[CurveStop]) -> Curves:
    """The chart of one repair; needs at least two stops to show a line."""
    at = (0.0, 25.0, 50.0, 75.0, 100.0)
    return Curves(
        accuracy=_line([(s.share, s.accuracy) for s in stops]),
        success=_line([(s.share, s.success) for s in stops]),
        ticks=tuple(Tick(v, f"{v:.0f} %") for v in at),
        levels=tuple(Tick(_down(v / 100), f"{v:.0f} %") for v in (0.0, 50.0, 100.0)),
    )


def _line(points: Sequence[tuple[float | None, float | None]]) -> tuple[Segment, ...]:
    known = [(100 * x, _down(y)) for x, y in points if x is not None and y is not None]
    return tuple(
        Segment(round(x1, 2), y1, round(x2, 2), y2) for (x1, y1), (x2, y2) in itertools.pairwise(known)
    )


def _down(share: float) -> float:
    # a margin above and below, so that lines at 0 and 100 % keep their thickness
    return round(4 + 92 * (1 - share), 2)


def _round_values(low: float, high: float) -> list[float]:
    span = high - low
    steps = (
        (1, 1.5, 2, 3, 4, 5, 7) if span < 0.8 else (1, 2, 5) if span < 1.7 else (1, 3) if span < 3 else (1,)
    )
    values = [s * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for s in steps]
    return [v for v in values if low <= math.log10(v) <= high]


def _histogram(positions: Sequence[float]) -> tuple[Bin, ...]:
    counts = [0] * BINS
    for position in positions:
        counts[min(BINS - 1, int(position / 100 * BINS))] += 1
    width = 100 / BINS
    return tuple(
        # the root lets a single outlier be seen beside a crowd
        Bin(round(i * width, 2), round(width, 2), round(100 * math.sqrt(n / max(counts)), 1))
        for i, n in enumerate(counts)
        if n
    )
