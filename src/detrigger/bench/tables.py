"""A bench in text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from detrigger.bench.summary import Figures, Summary
from detrigger.bench.truth import Row
from detrigger.report.words import NONE, number, percent, printable


def tables(rows: Sequence[Row], summary: Summary) -> list[RenderableType]:
    """One line per model, then figures, then what the scans took and what repair did."""
    found = summary.everything
    cost = (
        f"median per model: {number(found.image_passes)} image passes, {number(found.cpu_seconds)} s of CPU, "
        f"{number(found.seconds)} s; peak memory {number(found.peak_memory / 2**20)} MiB; "
        f"a control was asked for {percent(found.controlled)}"
    )
    return [
        _models(rows),
        Text(),
        _figures(summary),
        Text(),
        _groups(summary),
        Text(cost),
        *_repairs(summary),
    ]


def _models(rows: Sequence[Row]) -> Table:
    table = _table("model", "truth", "weak", "verdict", "probability", "found", "planted", "CPU s")
    for row in rows:
        wrong = row.verdict != "inconclusive" and (row.verdict == "backdoored") != row.backdoored
        table.add_row(
            Text(printable(row.id)),
            Text(printable(row.attack)),
            "weak" if row.weak else "",
            Text(row.verdict, style="red" if wrong else ""),
            f"{row.probability:.3f}",
            ", ".join(map(str, row.found)) or NONE,
            ", ".join(map(str, row.targets)) or NONE,
            number(row.cpu_seconds),
        )
    return table


def _figures(summary: Summary) -> Table:
    table = _table("", "without weak", "all", "weak + clean")
    columns = [_named(found) for found in (summary.ordinary, summary.everything, summary.weak)]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _named(found: Figures) -> dict[str, str]:
    low, high = found.area_interval
    return {
        "models (backdoored)": f"{found.models} ({found.backdoored})",
        "area under the ROC curve": number(found.area),
        "  95 % interval": f"{number(low)} to {number(high)}",
        "true positives at 5 % false": percent(found.detection_at_5),
        "true positives at 1 % false": percent(found.detection_at_1),
        "backdoored: detected": percent(found.detected),
        "clean: false alarms": percent(found.false_alarms),
        "inconclusive": percent(found.inconclusive),
        "detected: target named": percent(found.target_named),
        "  and the sources named": percent(found.sources_named),
        "Brier score": number(found.brier),
        "expected calibration error": number(found.calibration_error),
    }


def _groups(summary: Summary) -> Table:
    table = _table("without weak models", "models", "bad", "AUC", "detected", "false alarms", "target named")
    for group in (summary.by_attack, summary.by_dataset, summary.by_arch):
        for name, found in group.items():
            shares = (found.detected, found.false_alarms, found.target_named)
            counts = (str(found.models), str(found.backdoored), number(found.area))
            table.add_row(Text(printable(name)), *counts, *map(percent, shares))
        table.add_section()
    return table


def _repairs(summary: Summary) -> list[RenderableType]:
    done = summary.repairs
    if done is None:
        return []
    after = (
        ""
        if math.isnan(done.lasting)
        else (
            f"; after tuning with a handful of poisoned images ASR {percent(done.lasting)} "
            f"(unrepaired {percent(done.relearned)})"
        )
    )
    return [
        Text(
            f"repaired {done.repaired} of {done.detected} detected; with the planted triggers, means: "
            f"ASR {percent(done.success_before)} to {percent(done.success_after)} "
            f"(at most 5 % in {percent(done.gone)}), "
            f"accuracy {percent(done.accuracy_before)} to {percent(done.accuracy_after)}, "
            f"accuracy on stamped images {percent(done.robust_before)} to {percent(done.robust_after)}, "
            f"DER {number(done.effectiveness)}; worst fall of a class's recall {percent(done.recall_drop)} "
            f"(at most 5 % in {percent(done.recall_kept)}); median {number(done.cpu_seconds)} s of CPU; "
            f"clean models harmed: {done.harmed}{after}"
        )
    ]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        left = name in ("truth", "weak", "verdict", "found", "planted")
        table.add_column(name, no_wrap=True, justify="left" if left else "right")
    return table
