"""`detrigger demo`"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from detrigger import measure
from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.cli.console import progress, show
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_folder, write_scan
from detrigger.identify import compare
from detrigger.images import Images
from detrigger.load import load_trigger
from detrigger.model import Classifier
from detrigger.report.text import match_table, summary
from detrigger.report.words import duration, percent, printable
from detrigger.save import save_classifier
from detrigger.scan import Scan, ScanConfig, scan
from detrigger.trigger import Trigger

REPAIRS = ("prune", "refit", "unlearn", "unlearn-distilled")


def demo(*, out: Path = Path("detrigger-demo"), seed: int = 0) -> int:
    """See it work on real MNIST digits: scan, identify, repair, prove.

    Two networks come with detrigger, a clean one and one with a backdoor: a white 4×4 patch near the lower
    right corner sends any digit to class 7. The scan knows nothing of that; the true trigger only checks it.

    Parameters
    ----------
    out
        Folder for the reports and the repaired models.
    seed
        Of everything drawn at random.
    """
    check_folder(out)
    began = time.perf_counter()
    with as_file(files("detrigger") / "demo") as shipped:
        flags = InputFlags(data=shipped / "mnist.npz", arch=f"{shipped / 'network.py'}:make", seed=seed)
        clean_model, images = read_inputs(shipped / "clean.safetensors", flags)
        backdoored, _ = read_inputs(shipped / "badnets.safetensors", flags)
        planted, facts = load_trigger(shipped / "planted_trigger.safetensors")
    target = int(facts["target"])

    _heading("1. A clean model")
    first = _scan(clean_model, images, seed)
    show(summary(write_scan(out / "clean", first, images, clean_model), folder=out / "clean"))

    _heading("\n2. A model with a backdoor")
    found = _scan(backdoored, images, seed)
    matches = tuple(
        compare(backdoored, images, b.trigger, planted, target) for b in found.backdoors if b.target == target
    )
    folder = out / "backdoored"
    show(summary(write_scan(folder, found, images, backdoored, matches=matches), folder=folder))

    _heading("\n3. Is it the attacker's trigger? The one found beside the one planted")
    for match in matches:
        show(match_table(match, backdoored.classes))
    if not matches:
        show(Text(f"No trigger of class {target} was found."))

    _heading("\n4. Repairs, judged on held-out images; the true trigger is unknown to them")
    cleanings = _repairs(backdoored, images, found, seed)
    show(_before_and_after(backdoored, cleanings, images, planted, target))
    for method, cleaning in cleanings.items():
        write_scan(out / method, found, images, backdoored, cleaning=cleaning, matches=matches)
        if cleaning.repaired:
            save_classifier(cleaning.model, out / method / "repaired.safetensors")
    _heading(f"\nTook {duration(time.perf_counter() - began)}. Reports to open in a browser:")
    for name in ("clean", "backdoored", *cleanings):
        show(Text(f"  {printable(str(out / name / 'report.html'))}", overflow="fold"))
    return 0


def _heading(text: str) -> None:
    show(Text(text, "bold"))


def _scan(model: Classifier, images: Images, seed: int) -> Scan:
    with progress("scanning classes") as callback:
        return scan(model, images, ScanConfig(), seed=seed, progress=callback)


def _repairs(model: Classifier, images: Images, found: Scan, seed: int) -> dict[str, Cleaning]:
    cleanings = {}
    for method in REPAIRS:
        with progress(f"{method}, rescan") as callback:
            cleanings[method] = clean(
                model,
                images,
                ScanConfig(),
                CleanConfig(method=method),
                first=found,
                seed=seed,
                progress=callback,
            )
    return cleanings


def _before_and_after(
    model: Classifier, cleanings: dict[str, Cleaning], images: Images, planted: Trigger, target: int
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column in ("Repair", "Guard", "Rescan"):
        table.add_column(column, no_wrap=True)
    for column in ("Accuracy, %", "Found trigger, %", "True trigger, %"):
        table.add_column(column, justify="right")
    for method, cleaning in cleanings.items():
        for attempt in cleaning.attempts:
            judged = attempt.judgement
            table.add_row(
                method,
                "passed" if judged.accepted else "refused",
                cleaning.scans[-1].finding.verdict if cleaning.repaired else "-",
                _change([judged.accuracy_before, judged.accuracy_after]),
                _change([max(judged.success_before), max(judged.success_after)]),
                _change([measure.success(m, images, planted, target) for m in (model, cleaning.model)])
                if cleaning.repaired
                else "unchanged",
            )
    return table


def _change(shares: Sequence[float]) -> str:
    return " to ".join(percent(share).removesuffix(" %") for share in shares)
