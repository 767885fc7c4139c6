"""What a file is and would run, in a terminal. Needs no torch, so that it is there at once."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detrigger.files.inspect import Inspection
from detrigger.files.judge import WouldRun
from detrigger.report.printable import printable

UNSEEN = {"directory", "huggingface", "saved-model", "hdf5", "tflite", "gguf", "packed"}
UNSEEN |= {"image", "parquet", "csv", "jsonl", "empty", "unknown"}
"""Kinds of files of which nothing more is known than their kind."""
LISTED = 60
"""Sentences at most."""
SHOWN = 5
"""Harmless names at most."""
STYLES = {"low": "dim", "medium": "yellow", "high": "bold red"}
"""By severity; the worst is told first."""


def inspection(found: Inspection, *, tensors: bool = False) -> Group:
    """What a file is, what it holds and what it would run; with all its tensors, if asked for."""
    size = f"{found.size_bytes:,} bytes, SHA-256 {found.sha256}" if found.sha256 else "not looked into"
    file = f"  {printable(found.path)}: {found.description}, {size}"
    parts: list[RenderableType] = [_headline(found), Text(file, overflow="fold")]
    if found.tensors:
        types = Counter(dtype for _, _, dtype in found.tensors)
        told = ", ".join(f"{count:,} {dtype}" for dtype, count in types.most_common())
        parts.append(Text(f"  {len(found.tensors):,} tensors ({told}) with {found.parameters:,} values"))
    lines = [(f.severity, f.sentence) for f in found.findings]
    lines += [(run.severity, _told(run)) for run in _worse(found)]
    lines.sort(key=lambda line: list(STYLES).index(line[0]), reverse=True)
    parts += [_line(*line) for line in lines[:LISTED]]
    if known := [run.name for run in found.would_run if run.severity == "low"]:
        several = [*known[:SHOWN], *([f"{len(known) - SHOWN} more"] if len(known) > SHOWN else [])]
        parts.append(_line("low", f"would make or import {', '.join(several)}"))
    if left := len(lines[LISTED:]):
        parts.append(Text(f"  and {left:,} more"))
    return Group(*parts, *([_table(found)] if tensors and found.tensors else []))


def dangers(found: Inspection) -> list[str]:
    """What of it could do harm, a few words each, without control characters."""
    told = [f.sentence for f in found.findings if f.severity != "low"]
    return [printable(sentence) for sentence in [*map(_told, _worse(found)), *told]]


def _worse(found: Inspection) -> list[WouldRun]:
    return [run for run in found.would_run if run.severity != "low"]


def _headline(found: Inspection) -> Text:
    if found.dangerous:
        worst = "would do harm" if any(r.severity == "high" for r in found.would_run) else "could run code"
        return Text.assemble(("DANGEROUS", "bold red"), f": opening it with ordinary tools {worst}.")
    if found.format in UNSEEN:
        return Text.assemble(("NOT LOOKED INTO", "bold yellow"), ": only its kind was told.")
    return Text.assemble(("SAFE TO READ", "bold green"), ": nothing harmful in it would run.")


def _line(severity: str, sentence: str) -> Text:
    return Text.assemble("  ", (severity, STYLES[severity]), f": {printable(sentence)}", overflow="fold")


def _told(run: WouldRun) -> str:
    arguments = f"({run.arguments})" if run.how == "call" else ""
    where = f" ({run.member})" if run.member else ""
    return f"would {run.how} {run.name}{arguments}{where}"


def _table(found: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Tensor", overflow="fold")
    table.add_column("Shape", justify="right")
    table.add_column("Type", justify="right")
    for name, shape, kind in found.tensors:
        table.add_row(Text(printable(name)), "×".join(map(str, shape)) or "one value", kind)
    return table
