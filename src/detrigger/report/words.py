"""How figures and verdicts are put into words, the same in text and in HTML."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from detrigger.report.printable import printable as printable
from detrigger.report.schema import BackdoorRecord, ClassRecord, Document
from detrigger.trigger import FAMILIES

NONE = "–"
"""Stands for a figure that is not there."""

SURE = 0.9
"""Probability from which a class is never called a secondary suspect."""
NEAR = 0.1
"""Nor is one whose probability is no further than this from the highest."""
LISTED = 5
"""Classes named in a sentence at most."""


def relative(path: str, root: Path) -> str:
    """A path seen from the folder `root`, for others than the user; outside of it, its name alone."""
    full = os.path.abspath(path or "model in memory")
    below = os.path.relpath(full, root)
    inside = below != os.pardir and not below.startswith(os.pardir + os.sep)
    told = Path(below if inside else os.path.basename(full)).as_posix()
    return told.encode("utf-8", "backslashreplace").decode()


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
    """Sorting by it puts the surest suspects first, then the smallest triggers, then classes without any."""
    size = float("inf") if record.size is None else record.size
    return (not record.suspect, not record.inverted, -record.probability if record.suspect else size)


def verdict(report: Document) -> str:
    """The verdict in one sentence that begins with its word in capitals."""
    chance = f"probability of a backdoor {probability(report.probability)}"
    if report.verdict == "clean":
        among = "the one class" if len(report.classes) == 1 else f"any of {len(report.classes):,} classes"
        return f"CLEAN: no suspiciously small trigger was found for {among} scanned; {chance}."
    if report.verdict == "backdoored" and report.backdoors:
        return f"BACKDOORED: {_backdoors(report)}; probability {probability(report.probability)}."
    reason = printable(report.reasons[0]).rstrip(". ") if report.reasons else "no reason was recorded"
    return f"{report.verdict.upper()}: {reason}; {chance}."


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
    last = chosen[-1].certificate or chosen[-1]
    rounds = "1 round" if len(chosen) == 1 else f"{len(chosen)} rounds"
    word = "REPAIRED, IN DOUBT" if cleaning.doubt else "REPAIRED"
    return (
        f"{word}: after {rounds} accuracy went from {percent(last.accuracy.before)} to "
        f"{percent(last.accuracy.after)} and the trigger's success from "
        f"{percent(last.synthesised_asr.before)} to {percent(last.synthesised_asr.after)}; {reason}."
    )


def certificate(report: Document) -> str:
    """What is certain of a repair, and of what nothing is; empty if there is no certificate."""
    found = report.cleaning.certificate if report.cleaning else None
    if found is None:
        return ""
    lost = None if found.accuracy_loss_upper95 is None else max(0.0, found.accuracy_loss_upper95)
    return (
        f"Certified on {found.images:,} clean images that no repair, search or rescan had seen: at most "
        f"{percent(lost)} of all images lose their right answer, and the reconstructed triggers work on at "
        f"most {percent(found.synthesised_asr.upper95)}, each with 95 % confidence. Not covered: triggers "
        "that were not found, or that differ from image to image, and what training the model further brings "
        "back."
    )


def probability(value: float | None) -> str:
    """Two decimals; never rounded to certainty."""
    if value is None:
        return NONE
    if 0.99 < value < 1:
        return ">0.99"
    return "<0.01" if 0 < value < 0.01 else f"{value:.2f}"


def _backdoors(report: Document) -> str:
    first = report.backdoors[0]
    text = backdoor(report, first)
    more = len(main(report)) - 1
    if not more:
        return text
    return f"{text}, and {more} more {'backdoor was' if more == 1 else 'backdoors were'} found"


def backdoor(report: Document, record: BackdoorRecord) -> str:
    """`a patch of 8.5 pixels sends 99 % of all images to class 7 ('seven')`."""
    target = called(report.model.classes, record.target)
    return f"{trigger(record)} sends {_images(report, record)} to class {target}"


def main(report: Document) -> tuple[BackdoorRecord, ...]:
    """The backdoors that are about as sure as the surest; the others are secondary suspects."""
    highest = max((b.probability or 0.0 for b in report.backdoors), default=0.0)
    return tuple(b for b in report.backdoors if (b.probability or 0.0) >= min(SURE, highest - NEAR))


def why(report: Document) -> str:
    """Heading of the reasons: those of a clean model are what came closest to a suspicion."""
    return {
        "clean": "What came closest to a suspicion",
        "backdoored": "Why",
        "inconclusive": "Why it is in doubt",
    }[report.verdict]


def secondary(report: Document) -> str:
    """The secondary suspects in a sentence; empty if there are none."""
    first = main(report)
    others = [b for b in report.backdoors if b not in first]
    if not others:
        return ""
    named = ", ".join(called(report.model.classes, b.target) for b in others[:LISTED])
    more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
    return f"Secondary suspects, less sure and perhaps side effects: {named}{more}."


def standing(report: Document, record: ClassRecord) -> str:
    """What a class is in the list of classes: `suspect`, `secondary`, `no trigger`, or nothing."""
    if record.suspect:
        first = {b.target for b in main(report)}
        return "suspect" if record.index in first or not first else "secondary"
    return "" if record.inverted else "no trigger"


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
    names = [called(report.model.classes, i) for i in record.sources[:LISTED]]
    more = len(record.sources) - len(names)
    listed = ", ".join(names) + (f" and {more} more" if more else "")
    word = "class" if len(record.sources) == 1 else "classes"
    return f"{percent(record.success)} of the images of {word} {listed}"
