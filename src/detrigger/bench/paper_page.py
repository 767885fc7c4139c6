"""The paper's experiment, shown: a table for a terminal, an HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from detrigger.bench.paper_figures import REPAIRS, Cell, Result, beside, cells, shown
from detrigger.bench.poison_rate_figures import share
from detrigger.bench.poison_rate_page import Chart, Mark, Tick
from detrigger.report.html import templates
from detrigger.report.words import printable

PICTURES = {
    "planted": "planted trigger",
    "found": "synthesised trigger",
    "image": "an image",
    "stamped": "with the planted one",
    "restamped": "with the synthesised one",
}
TABLE_2 = ("success", "accuracy", "clean_accuracy", "cost", "named", "cleared", "scan_seconds")
QUARTER = ("quarter_found", "quarter_success", "quarter_accuracy")
KINDS = ("accuracy", "lost", "success")
"""Figures of each repair."""


def table(results: Sequence[Result]) -> Table:
    """Every figure that the paper reports, or that was to be reached, beside ours."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("spec")
    made.add_column("figure")
    for name in ("paper", "wanted", "ours"):
        made.add_column(name, justify="right")
    made.add_column("")
    for result in results:
        for cell in cells(result):
            if cell.reported is None and cell.wanted is None:
                continue
            made.add_row(
                Text(printable(cell.spec)),
                Text(cell.title),
                shown(cell.reported, digits=3),
                shown(cell.wanted, digits=3),
                shown(cell.measured),
                {None: "", True: "met", False: "missed"}[cell.met],
            )
    return made


def page(results: Sequence[Result], pictures: Path) -> str:
    """The page, in HTML, with the pictures in it that are in a folder."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {"printable": printable, "share": share, "shown": shown, "beside": beside}
    parts = []
    for result in results:
        found = {cell.figure: cell for cell in cells(result)}
        parts.append(
            {
                "result": result,
                "found": found,
                "done": [pair for pair in result.pairs if pair.records],
                "tables": [
                    ("Table 2: the attack, and the scans", _rows(found, TABLE_2)),
                    ("A quarter of the last layer pruned", _rows(found, QUARTER)),
                ],
                "before": (found["accuracy"], found["success"]),
                "repairs": [(said, [found[f"{n}_{k}"] for k in KINDS]) for n, (*_, said) in REPAIRS.items()],
                "charts": _charts(result),
                "pictures": _pictures(result, pictures),
                "note": _note(result),
            }
        )
    return environment.get_template("paper.html").render(parts=parts)


def _note(result: Result) -> str:
    """What it took."""
    scans = [s for pair in result.pairs for s in (pair.clean_scan, pair.scan, pair.studied) if s]
    commits = ", ".join(dict.fromkeys(record.commit for pair in result.pairs for record in pair.records))
    seconds = sum(pair.cpu_seconds for pair in result.pairs)
    most = f", {max(s.megabytes for s in scans)} MB at most" if scans else ""
    return f"{seconds:.0f} CPU seconds without the open points{most}; commit {commits or 'none'}."


def _rows(found: dict[str, Cell], names: Sequence[str]) -> list[Cell]:
    """Those figures that were measured, or that there should be."""
    return [c for n in names if (c := found[n]).measured is not None or c.wanted is not None]


def _pictures(result: Result, folder: Path) -> list[tuple[int, list[tuple[str, str]]]]:
    """Per seed, caption and data URL of those that are there."""
    rows = []
    for pair in result.pairs:
        row = []
        for name, caption in PICTURES.items():
            path = folder / f"{result.plan.id}_{pair.seed}_{name}.png"
            if path.is_file():
                encoded = base64.b64encode(path.read_bytes()).decode()
                row.append((caption, f"data:image/png;base64,{encoded}"))
        if row:
            rows.append((pair.seed, row))
    return rows


def _charts(result: Result) -> list[Chart]:
    """The last layer pruned, one chart for each seed."""
    charts = []
    for pair in result.pairs:
        stops = pair.studied.curve if pair.studied else ()
        if not stops:
            continue
        most = stops[-1].share
        places = [2 + 98 * stop.share / most for stop in stops]
        lines = {
            kind: tuple(Mark(x, y, y, y) for x, y in zip(places, heights, strict=True))
            for kind, heights in {
                "accuracy": [100 - 100 * stop.accuracy for stop in stops],
                "success": [100 - 100 * stop.success for stop in stops],
                "found": [100 - 100 * stop.found for stop in stops],
            }.items()
        }
        across = tuple(Tick(100 - 100 * v, share(v)) for v in (0.0, 0.25, 0.5, 0.75, 1.0))
        along = tuple(Tick(2 + 98 * v / most, share(v)) for v in (0.0, 0.25, 0.5, 0.75) if v <= most)
        charts.append(
            Chart(f"seed {pair.seed}", "Share of the last layer's neurons pruned", lines, across, along)
        )
    return charts
