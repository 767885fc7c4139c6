"""What a report says, as a list of findings for a pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from detrigger.files.inspect import Inspection
from detrigger.report import words
from detrigger.report.baseline import Acceptance
from detrigger.report.inspection import dangers
from detrigger.report.schema import BackdoorRecord, Document
from detrigger.report.taxonomy import Rule, taxonomies

NAMED = 3
"""Dangers of a file that are named."""


@dataclass(frozen=True)
class Alert:
    """One finding about one model."""

    rule: Rule
    fingerprint: str
    """The same whatever seed, data, effort and version found it: hash of kind, model and target class."""
    model: str
    """Path as the user named it."""
    sha256: str
    """Of the model."""
    message: str
    """One sentence, without control characters."""
    backdoor: BackdoorRecord | None
    accepted: Acceptance | None
    """Not None if somebody has accepted it."""


def alerts(report: Document) -> tuple[Alert, ...]:
    """Findings of a scan: one per backdoor, or one for a scan in doubt; none for a clean model."""
    if report.verdict == "clean":
        return ()
    if report.verdict == "inconclusive" or not report.backdoors:
        rule = report.verdict if report.verdict == "inconclusive" else "backdoor"
        return (_alert(report, rule, words.verdict(report), None),)
    main = words.main(report)
    return tuple(
        _alert(
            report,
            "backdoor" if record in main else "secondary-suspect",
            f"{words.backdoor(report, record)}; probability {words.probability(record.probability)}.",
            record,
        )
        for record in report.backdoors
    )


def file_alerts(found: Inspection) -> tuple[Alert, ...]:
    """One finding for a file that is dangerous to open; none for others."""
    if not found.dangerous:
        return ()
    told = dangers(found)
    more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return (
        Alert(
            rule=taxonomies().rule("unsafe-file"),
            fingerprint=_fingerprint("unsafe-file", found.sha256),
            model=found.path,
            sha256=found.sha256,
            message=f"Opening it with ordinary tools could do harm: {'; '.join(told[:NAMED])}{more}.",
            backdoor=None,
            accepted=None,
        ),
    )


def accept(report: Document, accepted: Iterable[Acceptance]) -> Document:
    """The report, telling which of its findings are among those that somebody has accepted."""
    own = {alert.fingerprint for alert in alerts(report)}
    return msgspec.structs.replace(report, accepted=tuple(a for a in accepted if a.fingerprint in own))


def passes(report: Document) -> bool:
    """Nothing was found or in doubt that somebody has not accepted."""
    return all(alert.accepted for alert in alerts(report))


def acceptance(report: Document) -> tuple[str, ...]:
    """What has been accepted, a sentence each; the first says whether anything is left."""
    found = alerts(report)
    lines = [
        f"accepted until {a.accepted.expires} ({words.printable(a.accepted.reason)}): {a.message}"
        for a in found
        if a.accepted
    ]
    if not lines:
        return ()
    left = len(found) - len(lines)
    head = f"{left} of {len(found)} findings are not" if left else "every finding is"
    return (f"ACCEPTED: {head} accepted, so the scan {'fails' if left else 'passes'}.", *lines)


def _alert(report: Document, rule: str, message: str, record: BackdoorRecord | None) -> Alert:
    target = "" if record is None else str(record.target)
    # which of two suspects is the main one may change with the seed, so both are of one kind here
    kind = "inconclusive" if rule == "inconclusive" else "backdoor"
    fingerprint = _fingerprint(kind, report.model.sha256, target)
    return Alert(
        rule=taxonomies().rule(rule),
        fingerprint=fingerprint,
        model=report.model.path,
        sha256=report.model.sha256,
        message=message[:1].upper() + message[1:],
        backdoor=record,
        accepted=next((a for a in report.accepted if a.fingerprint == fingerprint), None),
    )


def _fingerprint(kind: str, sha256: str, target: str = "") -> str:
    return hashlib.sha256(f"detrigger/1/{kind}/{sha256}/{target}".encode()).hexdigest()[:32]
