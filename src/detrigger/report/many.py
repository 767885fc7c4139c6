"""Many models at once: summary.json, a table, and one exit code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from detrigger.report import words
from detrigger.report.alerts import passes
from detrigger.report.json_types import Index, Share, Verdict
from detrigger.report.printable import printable
from detrigger.report.schema import Document

VERSION = 1
"""Of the schema; goes up when a key is removed, renamed or changes its meaning."""

_STYLES = {"backdoored": "bold red", "inconclusive": "bold yellow", "failed": "bold", "missing": "bold"}
_CODES = {"backdoored": 1, "inconclusive": 3, "failed": 2, "missing": 2}
"""Exit codes, the one that counts most first."""


class ModelLine(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one model."""

    path: str
    """File as the user named it."""
    folder: str
    """With its report, in the folder of the summary."""
    outcome: Verdict | Literal["failed", "missing"]
    """The verdict; or it could not be scanned; or it has not been."""
    probability: Share | None = None
    """That it is backdoored."""
    targets: tuple[str, ...] = ()
    """Names of the classes that backdoors were found for."""
    accepted: bool = False
    """Somebody has accepted all that was found."""
    error: str = ""
    """Why it could not be scanned."""
    sha256: str = ""
    """Of the file's bytes."""
    seconds: float | None = None
    """That the scan took."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of summary.json."""

    schema_version: Literal[1] = 1
    """Of this schema."""
    counts: dict[str, Index]
    """Models by outcome."""
    models: tuple[ModelLine, ...]
    """In the order in which they were named."""


def line(path: str, folder: str, report: Document | None, error: str = "") -> ModelLine:
    """What became of a model: its report, or why there is none; neither if it was not scanned yet."""
    if report is None:
        return ModelLine(path=path, folder=folder, outcome="failed" if error else "missing", error=error)
    targets = dict.fromkeys(report.model.classes[found.target] for found in report.backdoors)
    return ModelLine(
        path=path,
        folder=folder,
        outcome=report.verdict,
        probability=report.probability,
        targets=tuple(targets),
        accepted=report.verdict != "clean" and passes(report),
        sha256=report.model.sha256,
        seconds=report.cost.seconds,
    )


def summarised(lines: Iterable[ModelLine]) -> Summary:
    """All models and how many there are of each outcome."""
    models = tuple(lines)
    outcomes: list[str] = [model.outcome for model in models]
    return Summary(counts={o: outcomes.count(o) for o in ("clean", *_CODES)}, models=models)


def encode_summary(summary: Summary) -> bytes:
    """summary.json: UTF-8, indented, a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def summary_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of summary.json."""
    schema = msgspec.json.schema(Summary)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "detrigger summary", **schema}


def exit_code(summary: Summary) -> int:
    """1 if any model is backdoored; else 3 if any is in doubt; else 2 if any has no report; else 0.

    What somebody has accepted does not count.
    """
    outcomes = {model.outcome for model in summary.models if not model.accepted}
    return next((code for outcome, code in _CODES.items() if outcome in outcomes), 0)


def table(summary: Summary) -> Table:
    """What rich prints: how many of each outcome, then a row per model, the worst first."""
    told = ", ".join(f"{count} {outcome}" for outcome, count in summary.counts.items() if count)
    shown = Table(title=f"{len(summary.models)} models: {told}", title_justify="left", box=box.HORIZONTALS)
    for heading in ("Outcome", "Model", "Probability", "Target or reason"):
        shown.add_column(heading, overflow="fold")
    for model in sorted(summary.models, key=_rank):
        outcome = f"{model.outcome}, accepted" if model.accepted else model.outcome
        shown.add_row(
            Text(outcome, style=_STYLES.get(model.outcome, "")),
            Text(printable(model.path)),
            "" if model.probability is None else words.probability(model.probability),
            Text(printable(", ".join(model.targets) or model.error)),
        )
    return shown


def _rank(model: ModelLine) -> tuple[int, float]:
    order = [*_CODES, "clean"]
    return order.index(model.outcome), -(model.probability or 0.0)
