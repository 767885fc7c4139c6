"""Reports as a short Markdown page, for the summary of a pipeline's run or a comment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detrigger.report import words
from detrigger.report.alerts import alerts
from detrigger.report.schema import Document
from detrigger.report.taxonomy import taxonomies

MARKS = {"clean": "✅", "backdoored": "❌", "inconclusive": "⚠️"}
ROWS = 5
"""Classes listed beside those that are suspect."""


def markdown(reports: Sequence[Document], root: Path) -> str:
    """Verdict, findings, the most suspect classes, and what is needed to get the same again."""
    return "\n".join(_page(report, root) for report in reports)


def text(told: str) -> str:
    """Any text, so that it cannot become markup, a link, a mention or a new line."""
    escaped = words.printable(told).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", escaped)
    # a word joiner keeps addresses, mentions and references from becoming links
    return re.sub(r"(@|:(?=//)|www(?=\.)|GH(?=-))", "\\1\u2060", escaped)


def _page(report: Document, root: Path) -> str:
    word, _, sentence = words.verdict(report).partition(": ")
    lines = [
        f"## {MARKS[report.verdict]} {word}: {text(words.relative(report.model.path, root))}",
        "",
        text(sentence[:1].upper() + sentence[1:]),
    ]
    if repair := words.repair(report):
        lines += ["", f"**{text(repair.partition(':')[0])}**:{text(repair.partition(':')[2])}"]
    lines += _findings(report) + _classes(report) + _facts(report)
    return "\n".join(lines) + "\n"


def _findings(report: Document) -> list[str]:
    found = alerts(report)
    if not found:
        return []
    lines = ["", "| finding | fingerprint | |", "|---|---|---|"]
    for alert in found:
        accepted = alert.accepted
        state = f"accepted until {accepted.expires}: {text(accepted.reason)}" if accepted else "open"
        lines.append(f"| {text(alert.message)} | `{alert.fingerprint}` | {state} |")
    entries = dict.fromkeys(entry for alert in found for entry in alert.rule.entries)
    links = [
        f"{t.name} {', '.join(f'[{e}]({t.address(e)})' for e in entries if e in t.entries)}"
        for t in taxonomies().taxonomies
    ]
    advice = dict.fromkeys(alert.rule.help for alert in found)
    return [*lines, "", " ".join(advice), "", "See " + "; ".join(links) + "."]


def _classes(report: Document) -> list[str]:
    if not report.classes:
        return []
    unit = words.unit(report.family)
    ordered = sorted(report.classes, key=words.suspicion)
    shown = ordered[: sum(c.suspect for c in ordered) + ROWS]
    lines = [
        "",
        f"| class | smallest {report.family} trigger{f', {unit}' * bool(unit)} | outlier index | success | |",
        "|---|--:|--:|--:|---|",
    ]
    for c in shown:
        note = words.standing(report, c)
        lines.append(
            f"| {text(words.called(report.model.classes, c.index))} | {words.tenth(c.size)} "
            f"| {words.tenth(c.log_size_score)} | {words.percent(c.success)} | {note} |"
        )
    more = len(ordered) - len(shown)
    return [*lines, "", f"{more} more classes need larger triggers, or none was found."] if more else lines


def _facts(report: Document) -> list[str]:
    model, cost = report.model, report.cost
    return [
        "",
        f"Model: sha256 `{model.sha256 or words.NONE}`"
        + (f", {text(model.arch)}" if model.arch else "")
        + f". Data: {report.data.images:,} images, accuracy {words.percent(report.data.accuracy)}, "
        f"sha256 `{report.data.sha256 or words.NONE}`. Seed {report.seed}. "
        f"Took {words.duration(cost.seconds)}, {cost.image_passes:,} image passes. "
        f"detrigger {report.tool.version}.",
    ]
