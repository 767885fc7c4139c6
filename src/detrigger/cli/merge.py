"""`detrigger merge`"""

from __future__ import annotations

from pathlib import Path

from detrigger.cli.formats import Format
from detrigger.cli.many import conclude, gathered
from detrigger.cli.results import read_accepted


def merge(out: Path, /, *, format: Format = "text", baseline: Path | None = None) -> int:
    """Put together what the jobs of `scan --shard` found out.

    Parameters
    ----------
    out
        The --out folder that the jobs share. summary.json is written to it.
    format
        Of what is printed.
    baseline
        File of findings that were accepted, made by detrigger baseline; they do not fail it.
    """
    return conclude(gathered(out, read_accepted(baseline)), format, out)
