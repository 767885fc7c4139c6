"""A scan in a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detrigger.certify import Certification
from detrigger.identify import Match
from detrigger.report import words
from detrigger.report.alerts import acceptance
from detrigger.report.schema import Document

ROWS = 15
"""Classes listed at most."""

BESIDE = 5
"""Classes listed beside the suspects, if there is room."""

STYLES = {"clean": "bold green", "backdoored": "bold red", "inconclusive": "bold yellow"}


def summary(report: Document, *, folder: Path | str | None = None, flags: str = "") -> Group:
    """What rich prints for a report: verdict, reasons, classes, repairs, cost; readable without colours.

    `folder` is where the report's files were written, if they were; `flags` are those with which the model
    was read, as they would be written in a shell, for what is to be done next. No text in the report is taken
    as markup, and control characters in it are spelt out.
    """
    verdict = words.verdict(report)
    parts: list[RenderableType] = [_coloured(verdict, STYLES[report.verdict])]
    repair = words.repair(report)
    if repair and report.cleaning:
        sure = report.cleaning.repaired and not report.cleaning.doubt
        parts.append(_coloured(repair, "bold green" if sure else "bold yellow"))
        parts += [Text(line) for line in [words.certificate(report)] if line]
    if told := acceptance(report):
        parts += [_coloured(told[0], "bold yellow"), *_bullets(list(told[1:]))]
    reasons = [words.printable(reason) for reason in report.reasons]
    reasons = [reason for reason in reasons if reason.rstrip(". ") not in verdict]
    if secondary := words.secondary(report):
        reasons.append(secondary)
    if reasons:
        parts += [Text(""), Text(f"{words.why(report)}:"), *_bullets(reasons)]
    if report.classes:
        parts += [Text(""), *_classes(report)]
    if report.repairs:
        parts += [Text(""), *_repairs(report)]
    parts += [Text(""), *_cost(report)]
    if folder is not None:
        parts += [Text(line, overflow="fold") for line in _files(report, folder)]
    if step := _next(report, folder, flags):
        parts += [Text(""), Text(step, no_wrap="\\" in step, overflow="ignore")]  # a command to be copied
    return Group(*parts)


def certification(result: Certification) -> Group:
    """What double masking proves, what it costs, and what it is not."""
    size = f"{result.patch_size}×{result.patch_size}"
    verdict = (
        f"CERTIFIED: {words.percent(result.certified)} of {result.images} images are given their right class "
        f"whatever patch of up to {size} pixels is put on them, wherever, if the model is asked through "
        "double masking."
    )
    table = _table("Clean accuracy", "")
    table.add_row("The model by itself", words.percent(result.accuracy))
    table.add_row("Through double masking", words.percent(result.defended_accuracy))
    table.add_row("Certified", words.percent(result.certified))
    tall, wide = result.mask_size
    k = result.masks
    cost = (
        f"{k} masks of {tall}×{wide} pixels: {k} forward passes for a prediction on which all agree, "
        f"{k} more for each that does not. Here {result.passes:,} images went through the model in all."
    )
    note = (
        "This is a wrapper, not a repair: the model is unchanged and by itself protects nobody. Triggers "
        "that are not a patch of this size (blended, warped, coloured) are not covered."
    )
    style = "bold green" if result.certified >= 0.5 else "bold yellow"
    return Group(_coloured(verdict, style), Text(""), table, Text(""), Text(cost), Text(note))


def match_table(match: Match, classes: tuple[str, ...]) -> Group:
    """A found trigger beside a known one: effectiveness, looks, neurons."""
    pair = _table("", "Found", "Known")
    pair.add_row(
        "Attack success rate", words.percent(match.success_found), words.percent(match.success_known)
    )
    pair.add_row("Size", words.tenth(match.size_found), words.tenth(match.size_known))
    looks = _table("Looks", "")
    looks.add_row("Overlap of the masks", words.percent(match.mask_overlap))
    looks.add_row("Distance of their centres, pixels", words.tenth(match.centre_distance))
    looks.add_row("Difference of the colours", words.percent(match.colour_difference))
    looks.add_row("Structural similarity", words.number(match.structural_similarity))
    neurons = _table("Layer", "Neurons", "Clean", "Known", "Found", "Shared", "Cosine")
    for n in match.neurons:
        neurons.add_row(
            Text(words.printable(n.layer)),
            str(n.top_neurons),
            words.number(n.activation_clean),
            words.number(n.activation_known),
            words.number(n.activation_found),
            words.percent(n.top_overlap),
            words.number(n.cosine),
        )
    heading = Text(f"Found and known trigger of class {words.called(classes, match.target)}")
    note = Text("Mean activation of the neurons that the known trigger raises most (top 1 %).")
    return Group(heading, Text(""), pair, Text(""), looks, Text(""), note, neurons)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _coloured(sentence: str, style: str) -> Text:
    word, colon, rest = sentence.partition(":")
    return Text.assemble((word + colon, style), rest)


def _classes(report: Document) -> list[RenderableType]:
    unit = words.unit(report.family)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Class", justify="right")
    table.add_column("Name", max_width=28, no_wrap=True, overflow="ellipsis")
    table.add_column(f"Size, {unit}" if unit else "Size", justify="right")
    table.add_column("Outlier index", justify="right")
    table.add_column("Success", justify="right")
    table.add_column("")
    ordered = sorted(report.classes, key=words.suspicion)
    shown = ordered[: min(ROWS, sum(c.suspect for c in ordered) + BESIDE)]
    for c in shown:
        standing = words.standing(report, c)
        table.add_row(
            str(c.index),
            Text(words.printable(c.name)),
            words.tenth(c.size),
            words.tenth(c.log_size_score),
            words.percent(c.success),
            standing.upper() if standing == "suspect" else standing,
            style="bold" if standing == "suspect" else "",
        )
    more = len(ordered) - len(shown)
    return [table] if more == 0 else [table, Text(f"and {more} more classes with larger triggers or none")]


def _repairs(report: Document) -> list[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("Round", justify="right")
    table.add_column("Repair", max_width=28)
    for heading in ("Accuracy", "Success", "at most"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for r in report.repairs:
        table.add_row(
            str(r.round),
            Text(words.printable(r.method)),
            _change(r.accuracy.before, r.accuracy.after),
            _change(r.synthesised_asr.before, r.synthesised_asr.after),
            words.percent(r.synthesised_asr.upper95),
            "CHOSEN" if r.chosen else "accepted" if r.accepted else "refused",
            style="bold" if r.chosen else "",
        )
    refused = [
        f"round {r.round}, {words.printable(r.method)}: {words.printable(judged.reason)}"
        for r in report.repairs
        for judged in (r, r.certificate)
        if judged and not judged.accepted
    ]
    return [table, Text(""), *_bullets(refused)] if refused else [table]


def _bullets(lines: list[str]) -> list[Table]:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row(Text("  *"), Text(line))
    return [grid] if lines else []


def _change(before: float | None, after: float | None) -> str:
    return f"{words.percent(before).removesuffix(' %')} to {words.percent(after)}"


def _cost(report: Document) -> list[Text]:
    cost, data = report.cost, report.data
    outputs = " The network returns probabilities; their logarithm was used." * bool(
        report.model.probabilities
    )
    model = "; ".join(words.printable(note) for note in report.model.notes)
    return [
        *([Text(f"Model: {model}.")] if model else []),
        Text(
            f"Data: {data.images:,} images, accuracy {words.percent(data.accuracy)}, seed {report.seed}."
            f"{outputs}"
        ),
        Text(
            f"Cost: {words.duration(cost.seconds)} ({words.duration(cost.cpu_seconds)} of CPU), "
            f"{cost.image_passes:,} image passes, {words.printable(cost.device)} "
            f"{words.printable(cost.precision)}."
        ),
    ]


def _next(report: Document, folder: Path | str | None, flags: str) -> str:
    """What the user can do now; empty where nothing is left to do or the reasons say it."""
    if report.cleaning is not None or report.accepted or not report.classes:
        return ""
    if report.verdict == "inconclusive":
        return "Next: scan again with more clean images of each class, or with another --seed."
    if report.verdict == "clean" or folder is None:
        return ""
    model, data, report_file = (
        words.printable(shlex.quote(str(p)))
        for p in (report.model.path, report.data.path, Path(folder) / "report.json")
    )
    lines = (
        f"Next: detrigger repair {model}",
        f"--data {data}",
        words.printable(flags),
        f"--report {report_file}",
    )
    return " \\\n    ".join([*filter(None, lines), "--out FIXED"])


def _files(report: Document, folder: Path | str) -> list[str]:
    where = words.printable(str(folder))
    lines = [f"Report: {where}/report.html; for programs {where}/report.json and others"]
    shown = words.main(report)[:ROWS]
    lines += [f"Trigger of class {b.target}: {where}/{words.printable(b.trigger)}" for b in shown]
    more = len(report.backdoors) - len(shown)
    return [*lines, f"and {more} more beside {'it' if len(shown) == 1 else 'them'}"] if more > 0 else lines
