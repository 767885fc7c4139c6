"""`detrigger repair`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Group
from rich.text import Text

from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.cli.console import progress
from detrigger.cli.formats import Format, tell
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_file, made
from detrigger.load import load_trigger
from detrigger.repair.guard import GuardConfig
from detrigger.report.document import document, encode, read, restore
from detrigger.report.html import page
from detrigger.report.text import summary
from detrigger.report.words import printable
from detrigger.save import check_target, save_classifier, write_atomically
from detrigger.scan import ScanConfig

HTML, JSON = ".report.html", ".report.json"
"""Put to the name of the repaired model for the reports beside it."""


def repair(
    model: Path,
    /,
    *,
    inputs: InputFlags,
    out: Path,
    report: Path | None = None,
    format: Format = "text",
    config: Annotated[CleanConfig, Parameter(name="*")] = CleanConfig(),
    guard: Annotated[GuardConfig, Parameter(name="guard")] = GuardConfig(),
    scan_config: Annotated[ScanConfig, Parameter(name="*")] = ScanConfig(),
) -> int:
    """Scan, repair under a guard, rescan, and write the repaired model.

    Parameters
    ----------
    model
        Weights: .safetensors, or a state dict .pth/.pt. Never changed.
    out
        The repaired model, in the format of MODEL; FILE.report.json and FILE.report.html beside it.
    report
        report.json of an earlier scan of the same model, to begin with instead of scanning.
    format
        Of what is printed.
    """
    check_target(out, model)
    check_file(out, (HTML, JSON), inputs=(model, inputs.data, report))
    classifier, images = read_inputs(model, inputs)
    first = None
    if report:
        first = restore(read(report), classifier, lambda name: load_trigger(report.parent / name)[0])
    with progress("scanning and repairing") as callback:
        cleaning = clean(
            classifier,
            images,
            scan_config,
            config,
            guard=guard,
            first=first,
            seed=inputs.seed,
            progress=callback,
        )
    record = document(cleaning.scans[0], cleaning=cleaning, model=classifier)
    html = page(record, cleaning.scans[0], images, classifier, cleaning=cleaning)
    made(out.parent)
    if cleaning.repaired:
        save_classifier(cleaning.model, out)
    write_atomically(Path(f"{out}{HTML}"), html.encode())
    write_atomically(Path(f"{out}{JSON}"), encode(record))
    files = Text(f"Report: {printable(str(out))}{HTML} and {JSON}", overflow="fold")
    tell(record, format, Group(_headline(cleaning, model, out), Text(""), summary(record), files))
    return _exit(cleaning)


def _headline(cleaning: Cleaning, model: Path, out: Path) -> Text:
    """What happened, in one sentence."""
    before = cleaning.scans[0].finding.verdict
    if cleaning.repaired:
        done = " and then ".join(attempt.method for attempt in cleaning.attempts if attempt.chosen)
        word, style = ("REPAIRED, IN DOUBT", "bold yellow") if cleaning.doubt else ("REPAIRED", "bold green")
        told = f"{model} was {before}; '{done}' was accepted; {cleaning.reason}; the repaired model is {out}."
    elif before == "clean":
        word, style = "NOTHING TO REPAIR", "bold green"
        told = f"the scan of {model} says clean; no model was written."
    elif before == "inconclusive":
        word, style = "NOT REPAIRED", "bold yellow"
        told = f"the scan of {model} is inconclusive, so no repair was tried; no model was written."
    else:
        word, style = "NOT REPAIRED", "bold yellow"
        told = f"{model} is {before}; {cleaning.reason}; no model was written."
    return Text.assemble((word, style), ": ", printable(told))


def _exit(cleaning: Cleaning) -> int:
    """0: repaired, or nothing to repair; 3: not repaired though something was found, or in doubt."""
    return (
        0 if (cleaning.repaired and not cleaning.doubt) or cleaning.scans[0].finding.verdict == "clean" else 3
    )
