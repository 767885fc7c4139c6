"""`detrigger baseline`"""

from __future__ import annotations

import datetime
from pathlib import Path

from rich.text import Text

from detrigger.cli.console import show
from detrigger.cli.results import check_file
from detrigger.errors import UsageError
from detrigger.report.alerts import alerts
from detrigger.report.baseline import Acceptance, encode_baseline, read_baseline
from detrigger.report.document import read
from detrigger.report.words import printable
from detrigger.save import made, write_atomically


def baseline(*reports: Path, out: Path, reason: str, expires: datetime.date) -> int:
    """Accept the findings of reports for a while, so that they do not fail a pipeline.

    A finding is known again by model and target class, whatever seed, data or version finds it; one in
    another file, even in the same model trained again, is a new one. What OUT accepts already is kept.

    Parameters
    ----------
    reports
        Files report.json, written by detrigger scan.
    out
        Baseline file, for scan --baseline; made, or added to.
    reason
        Why the findings are accepted.
    expires
        Last day on which they are, e.g. 2027-06-30.
    """
    _check(reports, reason, expires)
    check_file(out, (), inputs=reports)
    kept = {a.fingerprint: a for a in (read_baseline(out) if out.exists() else ())}
    added = {
        alert.fingerprint: Acceptance(
            fingerprint=alert.fingerprint,
            reason=reason.strip(),
            expires=expires,
            finding=alert.message,
            model=alert.model,
        )
        for report in reports
        for alert in alerts(read(report))
    }
    if not added:
        show(Text("There is nothing to accept: the models are clean. No file was written."))
        return 0
    made(out.parent)
    write_atomically(out, encode_baseline((kept | added).values()))
    lines = [f"Accepted until {expires} in {printable(str(out))}:"]
    lines += [f"  {printable(a.model)}: {a.finding}" for a in added.values()]
    if others := len(kept.keys() - added.keys()):
        lines.append(f"Kept: {others} that it accepted before.")
    show(Text("\n".join(lines), overflow="fold"))
    return 0


def _check(reports: tuple[Path, ...], reason: str, expires: datetime.date) -> None:
    if not reports:
        raise UsageError("no report was given; name one or more report.json, written by detrigger scan")
    if not reason.strip():
        raise UsageError("--reason is empty; say why the findings are accepted")
    if expires < datetime.date.today():
        raise UsageError(
            f"--expires is {expires}, which is past; give the last day on which they are accepted"
        )
