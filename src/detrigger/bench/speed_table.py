"""`bench speed` in text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from detrigger.bench.clock import Way
from detrigger.bench.speed import PeerTimed, Speed, exponent
from detrigger.report.words import NONE, number, percent, printable

IN_MODEL, THROUGHPUT, WORKERS, GROWTH = 0.85, 0.9, 1.7, 0.7
"""Aims: share of the time, of the best throughput, speed-up by two jobs; exponent of growth at most."""


def speed_tables(found: Speed) -> list[RenderableType]:
    """Figures beside their aims, the scans, the ways through the network, growth, operators, peers."""
    parts: list[RenderableType] = [
        _figures(found),
        _scans(found),
        _ways(found.ways),
        _growth(found),
        _operators(found),
    ]
    if found.peers:
        parts.append(_peers(found))
    return [line for part in parts for line in (part, "")][:-1]


def _figures(found: Speed) -> Table:
    table = _table("standing", "measured", "aimed at", "met")
    for name, measured, aim, met in _judged(found):
        table.add_row(name, measured, aim, "yes" if met else "no")
    return table


def _judged(found: Speed) -> Iterator[tuple[str, str, str, bool]]:
    one, best, alone, two = found.one, found.best, found.alone, found.two
    share = one.throughput / best.throughput
    faster = alone.seconds / two.seconds
    grown = exponent(found.growth)
    yield "time in the network", percent(one.in_model), f"{IN_MODEL:.0%}", one.in_model >= IN_MODEL
    yield "of the best throughput", percent(share), f"{THROUGHPUT:.0%}", share >= THROUGHPUT
    yield "two jobs against one", f"{faster:.2f} times", f"{WORKERS} times", faster >= WORKERS
    yield "  found the same", "", "", alone.result == two.result
    yield "passes grow as classes to", number(grown), f"{GROWTH}", grown <= GROWTH


def _scans(found: Speed) -> Table:
    table = _table(
        "scan", "precision", "verdict", "image passes", "CPU s", "s", "in network", "images/CPU s", "MiB"
    )
    for name, one in {**found.scans, "one job": found.alone, "two jobs": found.two}.items():
        table.add_row(
            name,
            one.precision,
            one.verdict,
            f"{one.image_passes:,}",
            number(one.cpu_seconds),
            number(one.seconds),
            percent(one.in_model),
            number(one.throughput),
            number(one.peak_memory / 2**20),
        )
    return table


def _ways(ways: Sequence[Way]) -> Table:
    kinds = list(dict.fromkeys((way.precision, way.layout) for way in ways))
    table = _table("images/CPU s", *(f"{precision}, {layout}" for precision, layout in kinds))
    for batch in sorted({way.batch for way in ways}):
        here = {(way.precision, way.layout): way.throughput for way in ways if way.batch == batch}
        table.add_row(f"batch of {batch}", *(number(here.get(kind)) for kind in kinds))
    return table


def _growth(found: Speed) -> Table:
    table = _table("classes", *map(str, found.growth))
    table.add_row("image passes", *(f"{count:,}" for count in found.growth.values()))
    return table


def _operators(found: Speed) -> Table:
    table = _table("operator (quick budget)", "share of CPU", "calls")
    for one in found.operators:
        table.add_row(Text(printable(one.name)), percent(one.share), f"{one.calls:,}")
    return table


def _peers(found: Speed) -> Table:
    table = _table("", "verdict", "targets", "image passes", "CPU s", "times our CPU s", "in fp32", "MiB")
    for peer in found.peers:
        table.add_row(*_peer(peer, found))
    return table


def _peer(peer: PeerTimed, found: Speed) -> tuple[str, ...]:
    asked, answer = peer.asked, peer.asked.answer
    return (
        printable(peer.name),
        answer.verdict,
        ", ".join(map(str, answer.targets)) or NONE,
        f"{asked.searching + asked.looking:,}",
        number(asked.cpu_seconds),
        number(asked.cpu_seconds / found.one.cpu_seconds),
        number(asked.cpu_seconds / found.scans["fp32"].cpu_seconds),
        number(peer.peak_memory / 2**20),
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, no_wrap=True, justify="right")
    return table
