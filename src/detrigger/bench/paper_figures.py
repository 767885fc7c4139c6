"""Cells: one figure of one spec over the seeds, beside the paper's and beside what was to be reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from detrigger.bench.paper_plan import PaperPlan
from detrigger.bench.paper_records import Case, Outcome, Scanned, Stop, Studied, Trained
from detrigger.bench.poison_rate_figures import difference

QUARTER = 0.25
"""Share of the last layer's neurons of which the paper makes a claim."""


@dataclass(frozen=True)
class Pair:
    """All records of one seed; None where there is none yet."""

    seed: int
    clean: Trained | None
    backdoored: Trained | None
    clean_scan: Scanned | None
    scan: Scanned | None
    """Of the backdoored model."""
    studied: Studied | None

    @property
    def records(self) -> tuple[Trained | Scanned | Studied, ...]:
        """Those that are there."""
        every = (self.clean, self.backdoored, self.clean_scan, self.scan, self.studied)
        return tuple(record for record in every if record is not None)

    @property
    def cpu_seconds(self) -> float:
        """Of all that was done."""
        return sum(r.told.cpu_seconds if isinstance(r, Scanned) else r.cpu_seconds for r in self.records)


@dataclass(frozen=True)
class OpenCase:
    """All records of one case of the open points; None where there is none yet."""

    name: str
    seed: int
    trained: Trained | None
    scan: Scanned | None
    cleanse: Scanned | None
    """By the method as published."""
    case: Case | None


@dataclass(frozen=True)
class Result:
    """All records of one spec."""

    plan: PaperPlan
    pairs: tuple[Pair, ...]
    cases: tuple[OpenCase, ...]


@dataclass(frozen=True)
class Figure:
    """How a figure is called and taken from the records of a seed; None where there is none."""

    title: str
    of: Callable[[Pair], float | None]
    high: bool = True
    """More is better."""


@dataclass(frozen=True)
class Cell:
    """One figure of one spec."""

    spec: str
    figure: str
    title: str
    reported: float | None
    """By the paper."""
    wanted: float | None
    """To be reached: at least, or at most where less is better."""
    measured: float | None
    """Mean over the seeds."""
    interval: tuple[float, float] | None
    """95 % by Student's t; None for fewer than two seeds."""
    met: bool | None
    """Does the mean reach what was wanted? None if nothing was wanted, or measured."""
    seeds: dict[str, float]
    seconds: float
    """Of CPU, for the models and the study of all seeds."""
    commit: str


def _trained(of: Callable[[Trained], float]) -> Callable[[Pair], float | None]:
    return lambda pair: of(pair.backdoored) if pair.backdoored else None


def _repair(method: str, images: str, of: Callable[[Outcome], float]) -> Callable[[Pair], float | None]:
    def value(pair: Pair) -> float | None:
        outcomes = pair.studied.outcomes if pair.studied else ()
        rows = [o for o in outcomes if (o.method, o.images) == (method, images)]
        return of(rows[0]) if rows else None

    return value


def _quarter(of: Callable[[Stop], float]) -> Callable[[Pair], float | None]:
    def value(pair: Pair) -> float | None:
        curve = pair.studied.curve if pair.studied else ()
        return next((of(stop) for stop in curve if stop.share == QUARTER), None)

    return value


def _cost(pair: Pair) -> float | None:
    if not (pair.clean and pair.backdoored):
        return None
    return pair.clean.accuracy - pair.backdoored.accuracy


def _named(pair: Pair) -> float | None:
    if not (pair.scan and pair.backdoored):
        return None
    told = pair.scan.told
    return float(told.verdict == "backdoored" and told.found[:1] == (pair.backdoored.target,))


def _cleared(pair: Pair) -> float | None:
    return float(pair.clean_scan.told.verdict == "clean") if pair.clean_scan else None


REPAIRS = {
    "prune": ("prune", "training", "pruning, paper's setting"),
    "unlearn": ("unlearn", "training", "unlearning, paper's setting"),
    "refit": ("refit", "training", "pruning and refit, paper's images"),
    "taught": ("unlearn-distilled", "training", "unlearning with a teacher, paper's images"),
    "distilled": ("unlearn-distilled", "scanner", "unlearning with a teacher, scanner's images"),
    "loop": ("auto", "scanner", "detrigger repair, scanner's images"),
}
"""Name in FIGURES: method and images of the Outcome, and what it is called."""


def _lost(name: str) -> Callable[[Pair], float | None]:
    after = _repair(*REPAIRS[name][:2], lambda o: o.accuracy)

    def value(pair: Pair) -> float | None:
        now = after(pair)
        return None if now is None or not pair.backdoored else pair.backdoored.accuracy - now

    return value


FIGURES: dict[str, Figure] = {
    "clean_accuracy": Figure("accuracy, clean model", lambda p: p.clean.accuracy if p.clean else None),
    "accuracy": Figure("accuracy, backdoored", _trained(lambda t: t.accuracy)),
    "cost": Figure("accuracy lost to the backdoor", _cost, high=False),
    "success": Figure("attack success", _trained(lambda t: t.success)),
    "named": Figure("backdoored: right verdict and target", _named),
    "cleared": Figure("clean twin: clean", _cleared),
    **{
        f"{name}_accuracy": Figure(f"accuracy after {title}", _repair(method, images, lambda o: o.accuracy))
        for name, (method, images, title) in REPAIRS.items()
    },
    **{
        f"{name}_success": Figure(
            f"attack success after {title}", _repair(method, images, lambda o: o.success), high=False
        )
        for name, (method, images, title) in REPAIRS.items()
    },
    **{
        f"{name}_lost": Figure(f"accuracy lost by {title}", _lost(name), high=False)
        for name, (_, _, title) in REPAIRS.items()
    },
    "quarter_found": Figure(
        "a quarter of the last layer pruned: synthesised", _quarter(lambda s: s.found), high=False
    ),
    "quarter_success": Figure(
        "a quarter of the last layer pruned: true trigger", _quarter(lambda s: s.success), high=False
    ),
    "quarter_accuracy": Figure(
        "a quarter of the last layer pruned: accuracy", _quarter(lambda s: s.accuracy)
    ),
    "scan_seconds": Figure(
        "scan of the backdoored model, CPU s",
        lambda p: p.scan.told.cpu_seconds if p.scan else None,
        high=False,
    ),
}


def cells(result: Result) -> tuple[Cell, ...]:
    """Every figure of a spec."""
    seconds = sum(pair.cpu_seconds for pair in result.pairs)
    commit = ", ".join(dict.fromkeys(record.commit for pair in result.pairs for record in pair.records))
    made = []
    for name, figure in FIGURES.items():
        values = {str(p.seed): v for p in result.pairs if (v := figure.of(p)) is not None}
        mean, interval = spread(values)
        wanted = result.plan.wanted.get(name)
        met = None
        if wanted is not None:
            met = None if mean is None else (mean >= wanted if figure.high else mean <= wanted)
        reported = result.plan.reported.get(name)
        made.append(
            Cell(
                result.plan.id,
                name,
                figure.title,
                reported,
                wanted,
                mean,
                interval,
                met,
                values,
                seconds,
                commit,
            )
        )
    return tuple(made)


def spread(values: Mapping[str, float]) -> tuple[float | None, tuple[float, float] | None]:
    """Mean, and its 95 % interval from two seeds on."""
    if not values:
        return None, None
    if len(values) == 1:
        return statistics.mean(values.values()), None
    found = difference(list(values.values()))
    return found.mean, (found.low, found.high)


def shown(value: float | None, *, digits: int = 4) -> str:
    """A number for a table."""
    return "–" if value is None else f"{value:.{digits}f}"


def beside(cell: Cell) -> str:
    """Measured, with its interval."""
    digits = 1 if cell.figure == "scan_seconds" else 4
    text = shown(cell.measured, digits=digits)
    if cell.interval:
        low, high = (shown(end, digits=digits) for end in cell.interval)
        text += f" ({low} to {high})"
    return text
