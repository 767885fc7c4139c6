"""The paper's experiment, from the specs in benchmarks/paper: models, scans, repairs, open points, a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

from detrigger.bench import paper_open
from detrigger.bench.paper_figures import OpenCase, Pair, Result, cells
from detrigger.bench.paper_page import page
from detrigger.bench.paper_plan import PaperPlan
from detrigger.bench.paper_records import Case, Scanned, Studied, Trained
from detrigger.bench.paper_scan import SCAN, scanned
from detrigger.bench.paper_study import study
from detrigger.bench.paper_train import Order, as_json, kept, train, weights
from detrigger.bench.processes import Run
from detrigger.save import write_atomically

Card = TypeVar("Card", Trained, Scanned, Studied, Case)
Until = Literal["models", "scans", "repairs", "open"]
"""Stretches of the work, in this order."""


def bench_paper(
    plans: Sequence[PaperPlan],
    root: Path | None,
    out: Path,
    *,
    run: Run,
    seeds: int = 3,
    until: Until = "open",
    said: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[Result, ...]:
    """Do what has no card with the same recipe yet; write cards, weights, pictures, cells and index.html.

    `root` is the folder that the specs' data paths start from; without one, data is fetched. `seeds` limits
    those of the specs. Nothing after the stretch `until` is made, but what is there is shown. `said` is
    called with how much of a part of the work is done, and how much there is. A card stays as it is when the
    scanner changes: delete it to measure again. Raises DataError for data that is missing or cannot be used.
    """
    for name in ("cards", "weights", "pictures", "cells"):
        (out / name).mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for plan in plans:
        _make(plan, root, out, run, seeds, until, said)
        results.append(_result(plan, root, out, seeds))
        for cell in cells(results[-1]):
            write_atomically(out / "cells" / f"{plan.id}_{cell.figure}.json", as_json(cell))
        write_atomically(out / "index.html", page(results, out / "pictures").encode())
    return tuple(results)


def _make(
    plan: PaperPlan,
    root: Path | None,
    out: Path,
    run: Run,
    seeds: int,
    until: Until,
    said: Callable[[int, int], None],
) -> None:
    numbers = range(min(seeds, plan.seeds))
    pairs = [Order(plan, seed, "backdoored", root, out) for seed in numbers]
    opened = _opened(plan, root, out, seeds)
    sized = [order for order in opened if plan.open and plan.open.cleanse and order.part.startswith("size")]
    stretch = get_args(Until).index(until)
    _all([o.other(part) for o in pairs for part in ("clean", "backdoored")], Trained, train, run, said)
    _all([o.other(paper_open.MODEL + o.part) for o in opened], Trained, paper_open.model, run, said)
    if stretch >= 1:
        parts = [o.other(SCAN + part) for o in pairs for part in ("clean", "backdoored")]
        _all(parts, Scanned, scanned, run, said)
        _all([o.other(SCAN + o.part) for o in opened], Scanned, paper_open.scanned, run, said)
        _all([o.other(paper_open.CLEANSE + o.part) for o in sized], Scanned, paper_open.published, run, said)
    if stretch >= 2:
        _all([o.other("repairs") for o in pairs], Studied, study, run, said)
    if stretch >= 3:
        _all(opened, Case, paper_open.case, run, said)


def _opened(plan: PaperPlan, root: Path | None, out: Path, seeds: int) -> list[Order]:
    """The cases of the open points."""
    if plan.open is None:
        return []
    numbers = range(min(seeds, plan.seeds, plan.open.seeds))
    return [Order(plan, seed, part, root, out) for seed in numbers for part in paper_open.cases(plan.open)]


def _result(plan: PaperPlan, root: Path | None, out: Path, seeds: int) -> Result:
    """What is there so far."""
    pairs = []
    for seed in range(min(seeds, plan.seeds)):
        order = Order(plan, seed, "repairs", root, out)
        pairs.append(
            Pair(
                seed,
                _kept(order.other("clean"), Trained),
                _kept(order.other("backdoored"), Trained),
                _kept(order.other(f"{SCAN}clean"), Scanned),
                _kept(order.other(f"{SCAN}backdoored"), Scanned),
                _kept(order, Studied),
            )
        )
    opened = [
        OpenCase(
            order.part,
            order.seed,
            _kept(order.other(paper_open.MODEL + order.part), Trained),
            _kept(order.other(SCAN + order.part), Scanned),
            _kept(order.other(paper_open.CLEANSE + order.part), Scanned),
            _kept(order, Case),
        )
        for order in _opened(plan, root, out, seeds)
    ]
    return Result(plan, tuple(pairs), tuple(opened))


def _all(
    orders: list[Order],
    kind: type[Card],
    work: Callable[[Order], Card],
    run: Run,
    said: Callable[[int, int], None],
) -> None:
    """What of the orders is not there yet is made."""
    missing = [order for order in orders if _kept(order, kind) is None]
    for done, _ in enumerate(run(work, missing), 1):
        said(done, len(missing))


def _kept(order: Order, kind: type[Card]) -> Card | None:
    if kind is Trained and not weights(order).is_file():
        return None
    of_pair = order.part.split()[-1] in ("clean", "backdoored", "repairs")
    return kept(order.card, kind, order.recipe() if of_pair else paper_open.recipe(order))
