"""`detrigger repair`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.cli.console import emit, progress, show
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_writable
from detrigger.load import load_trigger
from detrigger.repair.guard import GuardConfig
from detrigger.report.document import document, encode, read, restore
from detrigger.report.html import page
from detrigger.report.text import summary
from detrigger.save import check_target, save_classifier, write_atomically
from detrigger.scan import ScanConfig


def repair(
    model: Path,
    *,
    inputs: InputFlags,
    out: Path,
    report: Path | None = None,
    format: Literal["text", "json"] = "text",
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
    check_writable(out.parent)
    check_target(out, model)
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
    made = document(cleaning.scans[0], cleaning=cleaning, model=classifier)
    html = page(made, cleaning.scans[0], images, classifier, cleaning=cleaning)
    if cleaning.repaired:
        save_classifier(cleaning.model, out)
    write_atomically(Path(f"{out}.report.html"), html.encode())
    write_atomically(Path(f"{out}.report.json"), encode(made))
    if format == "json":
        emit(encode(made).decode())
    else:
        show(summary(made))
    return _exit(cleaning)


def _exit(cleaning: Cleaning) -> int:
    """0: repaired, or nothing to repair; 3: not repaired though something was found or is in doubt."""
    return 0 if cleaning.repaired or cleaning.scans[0].finding.verdict == "clean" else 3
