"""`detrigger repair`"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Group
from rich.text import Text

from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.cli.console import progress, show
from detrigger.cli.formats import Format, tell
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_file
from detrigger.delta import applied, difference, load_patch, reverted, save_patch
from detrigger.errors import ModelError, UsageError
from detrigger.files.sniff import sniff
from detrigger.load import deviation, load_trigger, read_tensors
from detrigger.model import Origin
from detrigger.repair.guard import GuardConfig
from detrigger.report.document import document, encode, read, restore
from detrigger.report.html import page
from detrigger.report.schema import WrittenRecord
from detrigger.report.text import summary
from detrigger.report.words import printable
from detrigger.save import check_target, made, save_classifier, save_tensors, write_atomically
from detrigger.scan import ScanConfig

HTML, JSON = ".report.html", ".report.json"
"""Put to the name of the repaired model for the reports beside it."""
SAME = 1e-4
"""Logits that differ by no more are the same: ONNX may be computed in another order, others are not."""


@Parameter(name="*")
@dataclass(frozen=True)
class PatchFlags:
    """A repair as a patch file: what it changes in the weights, and nothing else."""

    patch: Path | None = None
    """Write the repair as a patch file, with --out or instead of it."""
    apply: Path | None = None
    """Put a patch file on MODEL and write that to --out; nothing is scanned, no --data is needed."""
    revert: Path | None = None
    """Take a patch file off MODEL again and write the original to --out; likewise."""


def repair(
    model: Path,
    /,
    *,
    inputs: InputFlags | None = None,
    out: Path | None = None,
    patches: PatchFlags = PatchFlags(),
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
        Weights as .safetensors, .pth, .pt or .pt2, an .onnx file, or a model folder. Never changed.
    out
        The repaired model, in the format of MODEL; FILE.report.json and FILE.report.html beside it.
        Needed, but with --patch.
    report
        report.json of an earlier scan of the same model, to begin with instead of scanning.
    format
        Of what is printed.
    """
    if patches.apply or patches.revert:
        return _patched(model, out, patches)
    written = [path for path in (out, patches.patch) if path]
    if inputs is None or not written:
        raise UsageError("--data and --out (or --patch) are needed to repair; see detrigger repair --help")
    for path in written:
        check_target(path, model)
        check_file(path, (HTML, JSON), inputs=(model, inputs.data, report))
    classifier, images = read_inputs(model, inputs)
    if patches.patch:
        difference(read_tensors(model).tensors, classifier.net.state_dict())  # now, not after the work
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
    record = msgspec.structs.replace(record, written=_write(cleaning, model, out, patches.patch))
    html = page(record, cleaning.scans[0], images, classifier, cleaning=cleaning)
    write_atomically(Path(f"{written[0]}{HTML}"), html.encode())
    write_atomically(Path(f"{written[0]}{JSON}"), encode(record))
    files = Text(f"Report: {printable(str(written[0]))}{HTML} and {JSON}", overflow="fold")
    if record.written:
        files.append(f"\nModel: sha256 {record.written.sha256}; read again, it gives the same outputs")
    tell(record, format, Group(_headline(cleaning, model, written), Text(""), summary(record), files))
    return _exit(cleaning)


def _write(cleaning: Cleaning, model: Path, out: Path | None, patch: Path | None) -> WrittenRecord | None:
    for path in (out, patch):
        if path:
            made(path.parent)
    if cleaning.repaired and patch:
        save_patch(difference(read_tensors(model).tensors, cleaning.model.net.state_dict()), patch)
    if not (cleaning.repaired and out):
        return None
    digest, off = save_classifier(cleaning.model, out), deviation(cleaning.model, out)
    if off > SAME:
        shutil.rmtree(out) if out.is_dir() else out.unlink()
        raise ModelError(
            f"{out} read again gave logits that differ by {off:g}, so it was not kept; report this"
        )
    return WrittenRecord(path=str(out), sha256=digest, format=sniff(out).name, difference=off)


def _patched(model: Path, out: Path | None, patches: PatchFlags) -> int:
    """Put a patch on, or take it off."""
    chosen = patches.apply or patches.revert
    if (patches.apply and patches.revert) or patches.patch or not chosen or not out:
        raise UsageError("--apply and --revert take a patch file, and with it MODEL and --out alone")
    check_target(out, model)
    check_file(out, (), inputs=(model, chosen))
    weights, change = read_tensors(model), load_patch(chosen)
    turned = (applied if patches.apply else reverted)(change, weights.tensors)
    made(out.parent)
    origin = Origin(format=weights.format, within=weights.within, prefix=weights.prefix)
    save_tensors(turned, out, origin)
    word = "APPLIED" if patches.apply else "REVERTED"
    show(Text(printable(f"{word}: {chosen} {'on' if patches.apply else 'off'} {model}; written to {out}.")))
    return 0


def _headline(cleaning: Cleaning, model: Path, written: Sequence[Path]) -> Text:
    """What happened, in one sentence."""
    before = cleaning.scans[0].finding.verdict
    if cleaning.repaired:
        done = " and then ".join(attempt.method for attempt in cleaning.attempts if attempt.chosen)
        word, style = ("REPAIRED, IN DOUBT", "bold yellow") if cleaning.doubt else ("REPAIRED", "bold green")
        where = " and ".join(map(str, written))
        told = (
            f"{model} was {before}; '{done}' was accepted; {cleaning.reason}; the repaired model is {where}."
        )
    elif before == "clean" and not cleaning.attempts:
        word, style = "NOTHING TO REPAIR", "bold green"
        told = f"the scan of {model} says clean; no model was written."
    elif before == "inconclusive" and not cleaning.attempts:
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
