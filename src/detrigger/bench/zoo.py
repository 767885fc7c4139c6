"""The scanner over a whole zoo: every verdict first, then the truth, then the figures."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from detrigger.bench.make import Record
from detrigger.bench.page import Shown, page, shown
from detrigger.bench.processes import Run
from detrigger.bench.relearn import RelearnConfig
from detrigger.bench.sealed import Sealed, read_card, verdict
from detrigger.bench.summary import Summary, summarise
from detrigger.bench.truth import Row, joined, sealed, zoo_triggers
from detrigger.bench.where import condition
from detrigger.bench.zoo_build import read_records
from detrigger.clean import CleanConfig
from detrigger.errors import DataError, UsageError
from detrigger.save import write_atomically
from detrigger.scan import ScanConfig


@dataclass(frozen=True)
class ZooConfig:
    """Which models of a zoo, and what is done with them."""

    where: str = ""
    """Condition on fields of zoo.json, such as `attack == "blended" and not weak`; by default all models."""
    repair: bool = False
    """Also repair what is found to be backdoored, and measure that with the triggers that were planted."""
    method: str = "auto"
    """Of the repair."""
    even_if_clean: bool = False
    """Repair models in which nothing is found as well."""
    relearn: bool = False
    """Tune models, repaired and as they were, with a handful of poisoned images, and measure again."""
    per_class: int | None = None
    """Images of each class at most that scan and repair get; by default all."""
    resume: bool = True
    """Keep the verdicts of an interrupted run in the same folder, where model and options are the same."""
    seed: int = 0
    """Of the scans and of the bootstrap."""


def bench_zoo(
    zoo: Path,
    out: Path,
    config: ZooConfig,
    scan_config: ScanConfig,
    *,
    run: Run,
    said: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[list[Row], Summary]:
    """Scan the chosen models; write a card for each, summary.json and index.html.

    `said` is called with models done and models in all. Raises DataError for a folder that is no zoo,
    UsageError for a condition that is none or that no model meets.
    """
    records = chosen(zoo, config.where)
    cards = out / "cards"
    cards.mkdir(parents=True, exist_ok=True)
    repair = CleanConfig(config.method, even_if_clean=config.even_if_clean) if config.repair else None
    orders = [
        sealed(r, zoo, cards, scan_config, repair=repair, per_class=config.per_class, seed=config.seed)
        for r in records
    ]
    if not config.resume:
        _forget(orders)
    for done, _ in enumerate(run(verdict, orders), 1):
        said(done, len(orders))
    rows, pictures = _judged(zoo, records, orders, RelearnConfig() if config.relearn else None)
    summary = summarise(rows, repair=config.repair, seed=config.seed)
    written = {
        "zoo": str(zoo),
        "where": config.where,
        "config": dataclasses.asdict(scan_config) | dataclasses.asdict(config),
        "figures": summary,
        "models": rows,
    }
    write_atomically(out / "summary.json", _json(written))
    write_atomically(out / "index.html", page(zoo.name, rows, summary, pictures).encode())
    return rows, summary


def chosen(zoo: Path, where: str) -> list[Record]:
    """The records of a zoo that meet a condition."""
    records = read_records(zoo)
    if not records:
        raise DataError(f"{zoo} has no zoo.json with models in it; give the folder of a zoo")
    if where:
        wanted = condition(where, {name for record in records for name in record})
        records = [record for record in records if wanted(record)]
    if not records:
        raise UsageError(f"no model of {zoo} meets --where {where!r}")
    return records


def _judged(
    zoo: Path, records: Sequence[Record], orders: Sequence[Sealed], relearn: RelearnConfig | None
) -> tuple[list[Row], list[Shown]]:
    triggers = zoo_triggers(zoo)
    rows, pictures = [], []
    for record, order in zip(records, orders, strict=True):
        card = read_card(order.card)
        row = joined(record, card, order, triggers, relearn=relearn)
        told = msgspec.to_builtins(card) | {"judged": row, "truth": record}
        write_atomically(order.card, _json(told))
        rows.append(row)
        pictures.append(shown(zoo, record, card, order, triggers))
    return rows, pictures


def _forget(orders: Sequence[Sealed]) -> None:
    for order in orders:
        order.card.unlink(missing_ok=True)
        shutil.rmtree(order.folder, ignore_errors=True)


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_finite(msgspec.to_builtins(value))), indent=1) + b"\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
