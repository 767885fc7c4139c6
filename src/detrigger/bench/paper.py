"""The paper's experiment, from the specs in benchmarks/paper: models, studies, open points, one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from detrigger.bench import paper_open
from detrigger.bench.paper_figures import Pair, Result, cells
from detrigger.bench.paper_page import page
from detrigger.bench.paper_plan import PaperPlan
from detrigger.bench.paper_records import Case, Studied, Trained
from detrigger.bench.paper_study import study
from detrigger.bench.paper_train import Order, as_json, kept, train, weights
from detrigger.bench.processes import Run
from detrigger.save import write_atomically

Card = TypeVar("Card", Trained, Studied, Case)


def bench_paper(
    plans: Sequence[PaperPlan],
    root: Path | None,
    out: Path,
    *,
    run: Run,
    seeds: int = 3,
    said: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[Result, ...]:
    """Do what has no card with the same recipe yet; write cards, weights, pictures, cells and index.html.

    `root` is the folder that the specs' data paths start from; without one, data is fetched. `seeds` limits
    those of the specs. `said` is called with how much of a stretch of work is done, and how much there is. A
    card stays as it is when the scanner changes: delete it to measure again.
    Raises DataError for data that is missing or cannot be used.
    """
    for name in ("cards", "weights", "pictures", "cells"):
        (out / name).mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for plan in plans:
        results.append(_result(plan, root, out, run, seeds, said))
        for cell in cells(results[-1]):
            write_atomically(out / "cells" / f"{plan.id}_{cell.figure}.json", as_json(cell))
        write_atomically(out / "index.html", page(results, out / "pictures").encode())
    return tuple(results)


def _result(
    plan: PaperPlan,
    root: Path | None,
    out: Path,
    run: Run,
    seeds: int,
    said: Callable[[int, int], None],
) -> Result:
    numbers = range(min(seeds, plan.seeds))

    def orders(*parts: str) -> list[Order]:
        return [Order(plan, seed, part, root, out) for seed in numbers for part in parts]

    models = _all(orders("clean", "backdoored"), Trained, train, run, said)
    studies = _all(orders("study"), Studied, study, run, said)
    pairs = tuple(
        Pair(seed, models[2 * i], models[2 * i + 1], studied)
        for i, (seed, studied) in enumerate(zip(numbers, studies, strict=True))
    )
    opened: list[Case] = []
    if plan.open:
        parts = paper_open.cases(plan.open)
        wanted = [o for o in orders(*parts) if o.seed < plan.open.seeds]
        opened = _all(wanted, Case, paper_open.case, run, said)
    return Result(plan, pairs, tuple(opened))


def _all(
    orders: list[Order],
    kind: type[Card],
    work: Callable[[Order], Card],
    run: Run,
    said: Callable[[int, int], None],
) -> list[Card]:
    """The cards of all orders, in their order; those that are not there yet are made."""
    missing = [order for order in orders if _kept(order, kind) is None]
    for done, _ in enumerate(run(work, missing), 1):
        said(done, len(missing))
    found = [_kept(order, kind) for order in orders]
    return [card for card in found if card is not None]


def _kept(order: Order, kind: type[Card]) -> Card | None:
    if kind is Trained and not weights(order).is_file():
        return None
    recipe = paper_open.recipe(order) if kind is Case else order.recipe()
    return kept(order.card, kind, recipe)
