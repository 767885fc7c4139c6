"""How figures and verdicts are put into words, the same in text and in HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detrigger.report.schema import BackdoorRecord, ClassRecord, Document
from detrigger.trigger import FAMILIES

NONE = "–"
"""Stands for a figure that is not there."""


def printable(text: str) -> str:
    r"""The text with every control, bidirectional or invisible character spelt out, e.g. as `\x1b`.

    Names come with the model, so from the attacker: they must not steer the reader's terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def percent(share: float | None) -> str:
    """A share in [0, 1] in per cent with one decimal; never rounded up to all or down to nothing."""
    if share is None or not math.isfinite(share):
        return NONE
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    if share < 0.0005:
        return "<0.1 %"
    return f"{share * 100:.1f} %" if share < 0.9995 else ">99.9 %"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return NONE if difference is None else f"{difference * 100:+.1f} pp"


def number(value: float | None) -> str:
    """About three significant digits, thousands apart."""
    if value is None or not math.isfinite(value):
        return NONE
    magnitude = abs(value)
    if value == 0 or magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 1e-3:
        return f"{value:.3g}"
    return f"{value:.2g}" if magnitude >= 1e-4 else f"{value:.1e}"


def tenth(value: float | None) -> str:
    """One decimal, for columns of sizes and scores."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{round(value, 1) + 0.0:,.1f}"  # adding zero takes the sign off -0.0


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 5 s` or `2 h 10 min`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def called(names: Sequence[str], index: int) -> str:
    """`7 ('seven')`, or `7` where the name says no more."""
    name = names[index] if index < len(names) else str(index)
    return str(index) if name == str(index) else f"{index} ('{printable(name)}')"


def unit(family: str) -> str:
    """Of sizes of that family; empty for an unknown one."""
    return FAMILIES[family].unit() if family in FAMILIES else ""


def suspicion(record: ClassRecord) -> tuple[bool, bool, float]:
    """Sorting by it puts suspects first, then the smallest triggers, then classes without any."""
    size = float("inf") if record.size is None else record.size
    return (not record.suspect, not record.inverted, size)


def verdict(report: Document) -> str:
    """The verdict in one sentence that begins with its word in capitals."""
    probability = f"probability of a backdoor {_probability(report.probability)}"
    if report.verdict == "clean":
        kind = printable(report.family)
        among = "the one class" if len(report.classes) == 1 else f"any of {len(report.classes):,} classes"
        return f"CLEAN: no suspicious {kind} trigger was found for {among} scanned; {probability}."
    if report.verdict == "backdoored" and report.backdoors:
        return f"BACKDOORED: {_backdoors(report)}; probability {_probability(report.probability)}."
    reason = printable(report.reasons[0]).rstrip(". ") if report.reasons else "no reason was recorded"
    return f"{report.verdict.upper()}: {reason}; {probability}."


def repair(report: Document) -> str:
    """What became of the repair in one sentence; empty if none was asked for."""
    cleaning = report.cleaning
    if cleaning is None:
        return ""
    reason = printable(cleaning.reason).rstrip(". ")
    chosen = [r for r in report.repairs if r.chosen]
    if not report.repairs:
        return f"NO REPAIR TRIED: {reason}."
    if not cleaning.repaired or not chosen:
        return f"NOT REPAIRED: {reason}."
    last = chosen[-1]
    rounds = "1 round" if len(chosen) == 1 else f"{len(chosen)} rounds"
    return (
        f"REPAIRED: after {rounds} accuracy went from {percent(last.accuracy.before)} to "
        f"{percent(last.accuracy.after)} and the trigger's success from "
        f"{percent(last.synthesised_asr.before)} to {percent(last.synthesised_asr.after)}; {reason}."
    )


def _probability(value: float) -> str:
    if 0.99 < value < 1:
        return ">0.99"
    return "<0.01" if 0 < value < 0.01 else f"{value:.2f}"


def _backdoors(report: Document) -> str:
    first = report.backdoors[0]
    target = called(report.model.classes, first.target)
    text = f"{trigger(first)} sends {_images(report, first)} to class {target}"
    more = len(report.backdoors) - 1
    if not more:
        return text
    return f"{text}, and {more} more {'backdoor was' if more == 1 else 'backdoors were'} found"


def trigger(record: BackdoorRecord) -> str:
    """`a patch of 8.5 pixels`."""
    family = printable(record.family)
    article = "an" if family[:1] in "aeiou" and family else "a"
    noun = family if family == "patch" else f"{family} trigger".strip()
    if record.size is None:
        return f"{article} {noun}"
    return f"{article} {noun} of {tenth(record.size)} {unit(record.family)}".rstrip()


def _images(report: Document, record: BackdoorRecord) -> str:
    if record.sources == "all":
        return f"{percent(record.success)} of all images"
    names = [called(report.model.classes, i) for i in record.sources[:5]]
    more = len(record.sources) - len(names)
    listed = ", ".join(names) + (f" and {more} more" if more else "")
    word = "class" if len(record.sources) == 1 else "classes"
    return f"{percent(record.success)} of the images of {word} {listed}"
