"""A study of poison rates, shown: a table for a terminal, an HTML page that needs nothing else, a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from rich.table import Table
from rich.text import Text

from detrigger.bench.poison_rate_figures import (
    Difference,
    Level,
    Spread,
    Study,
    points,
    sentence,
    share,
    spread,
    within,
)
from detrigger.report.html import templates
from detrigger.report.words import printable

START = 12.0
"""Per cent of a chart's width at which its log axis begins; the clean models stand at 0."""


@dataclass(frozen=True)
class Mark:
    """A mean and a range, in per cent of a chart's width and height, from the upper left."""

    x: float
    y: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Tick:
    """A labelled line across a chart."""

    at: float
    """Per cent from the left or from the top."""
    label: str


@dataclass(frozen=True)
class Chart:
    """Two kinds of marks at most, `accuracy` and `success`, over the rates."""

    title: str
    caption: str
    lines: dict[str, tuple[Mark, ...]]
    across: tuple[Tick, ...]
    along: tuple[Tick, ...]


def table(found: Study) -> Table:
    """One line per data set and rate."""
    result = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # else it is wider than 80 columns
    result.add_column("data set")
    for name in ("rate", "accuracy, %", "ASR, %", "difference, pp"):
        result.add_column(name, justify="right")
    for level in found.levels:
        result.add_row(
            Text(printable(level.dataset)),
            share(level.rate),
            spread(level.accuracy, 2),
            spread(level.success, 1),
            within(level.difference),
        )
    return result


def notes(found: Study, seeds: int) -> list[str]:
    """What the table shows, whether the claim held, and the rates of the claim taken together."""
    return [
        f"Means over {seeds} seeds, smallest and largest in brackets. Difference: accuracy minus that of the "
        f"clean model of the same seed, with its 95 % interval over the seeds (Student's t, n = {seeds}).",
        sentence(found),
        *(
            f"{name}, all rates below {share(found.claim)} together: {within(one)} pp."
            for name, one in found.together.items()
        ),
    ]


def page(found: Study, seeds: int) -> str:
    """The page, in HTML."""
    template = _environment().get_template("poison_rate.html")
    return template.render(levels=found.levels, charts=_charts(found), notes=notes(found, seeds))


def plot(found: Study) -> str:
    """The charts of the page as one picture, in SVG."""
    return _environment().get_template("poison_rate.svg").render(charts=_charts(found))


def _charts(found: Study) -> list[Chart]:
    """Two for each data set."""
    datasets = dict.fromkeys(level.dataset for level in found.levels)
    levels = {name: [level for level in found.levels if level.dataset == name] for name in datasets}
    return [chart for name in datasets for chart in (_rates(levels[name]), _differences(levels[name]))]


def _rates(levels: Sequence[Level]) -> Chart:
    def height(value: float) -> float:
        return 100 - 100 * value

    return Chart(
        f"{levels[0].dataset}: accuracy and attack success",
        "Share of training images poisoned; bars from the smallest to the largest of the seeds",
        {
            "accuracy": _marks(levels, lambda level: level.accuracy, height),
            "success": _marks(levels, lambda level: level.success, height),
        },
        tuple(Tick(height(value), share(value)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)),
        _along(levels),
    )


def _differences(levels: Sequence[Level]) -> Chart:
    tested = [level for level in levels if level.difference]
    limits = [abs(v) for level in tested if (d := level.difference) for v in (d.low, d.high)]
    most = max(0.001, math.ceil(1000 * max(limits)) / 1000)

    def height(value: float) -> float:
        return 50 - 50 * value / most

    return Chart(
        f"{levels[0].dataset}: accuracy lost or won",
        "Against the clean model of the same seed, in percentage points, with 95 % intervals",
        {"accuracy": _marks(tested, lambda level: level.difference, height)},
        tuple(Tick(height(v), points(v)) for v in (-most, -most / 2, 0.0, most / 2, most)),
        _along(tested),
    )


def _marks(
    levels: Sequence[Level],
    of: Callable[[Level], Spread | Difference | None],
    height: Callable[[float], float],
) -> tuple[Mark, ...]:
    place = _places(levels)
    return tuple(
        Mark(place(level.rate), height(one.mean), height(one.high), height(one.low))
        for level in levels
        if (one := of(level))
    )


def _along(levels: Sequence[Level]) -> tuple[Tick, ...]:
    place = _places(levels)
    return tuple(Tick(place(level.rate), f"{100 * level.rate:g}") for level in levels)


def _places(levels: Sequence[Level]) -> Callable[[float], float]:
    """From a rate to per cent of the width: logarithmic, but for 0."""
    rates = [level.rate for level in levels if level.rate]
    first, wide = math.log(min(rates)), math.log(max(rates) / min(rates)) or 1.0
    return lambda rate: START + (100 - START) * (math.log(rate) - first) / wide if rate else 0.0


def _environment() -> jinja2.Environment:
    environment = templates(Path(__file__).parent)
    environment.filters |= {"printable": printable, "share": share, "spread": spread, "within": within}
    return environment
