"""`detrigger demo`"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from rich import box
from rich.table import Table

from detrigger import measure
from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.cli.console import progress, show
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_writable, write_scan
from detrigger.identify import compare
from detrigger.images import Images
from detrigger.load import load_trigger
from detrigger.model import Classifier
from detrigger.report.text import match_table, summary
from detrigger.save import save_classifier
from detrigger.scan import Scan, ScanConfig, scan
from detrigger.trigger import Trigger

REPAIRS = ("prune", "refit", "unlearn", "unlearn-long")


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
    check_writable(out)
    began = time.perf_counter()
    with as_file(files("detrigger") / "demo") as shipped:
        flags = InputFlags(data=shipped / "mnist.npz", arch=f"{shipped / 'network.py'}:make", seed=seed)
        clean_model, images = read_inputs(shipped / "clean.safetensors", flags)
        backdoored, _ = read_inputs(shipped / "badnets.safetensors", flags)
        planted, facts = load_trigger(shipped / "planted_trigger.safetensors")
    target = int(facts["target"])

    show("[bold]1. A clean model[/bold]")
    first = _scan(clean_model, images, seed)
    show(summary(write_scan(_made(out / "clean"), first, images, clean_model), folder=str(out / "clean")))

    show("\n[bold]2. A model with a backdoor[/bold]")
    found = _scan(backdoored, images, seed)
    matches = tuple(
        compare(backdoored, images, b.trigger, planted, target) for b in found.backdoors if b.target == target
    )
    folder = _made(out / "backdoored")
    show(summary(write_scan(folder, found, images, backdoored, matches=matches), folder=str(folder)))

    show("\n[bold]3. Is it the attacker's trigger?[/bold] Found beside planted:")
    for match in matches:
        show(match_table(match, backdoored.classes))

    show(
        "\n[bold]4. Repairs[/bold], judged on held-out images; the last column is the truth, unknown to them:"
    )
    cleanings = _repairs(backdoored, images, found, seed)
    show(_before_and_after(backdoored, cleanings, images, planted, target))
    for method, cleaning in cleanings.items():
        report = _made(out / method)
        write_scan(report, found, images, backdoored, cleaning=cleaning, matches=matches)
        if cleaning.repaired:
            save_classifier(cleaning.model, report / "repaired.safetensors")
    show(f"\nReports: {', '.join(str(out / n / 'report.html') for n in ('backdoored', *cleanings))}")
    show(f"Took {time.perf_counter() - began:.0f} s.")
    return 0


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("Repair", "Guard", "Accuracy", "Found trigger", "Rescan", "True trigger"):
        table.add_column(column, justify="left" if column in ("Repair", "Guard", "Rescan") else "right")
    for method, cleaning in cleanings.items():
        for attempt in cleaning.attempts:
            judged = attempt.judgement
            table.add_row(
                method,
                "passed" if judged.accepted else "refused",
                _change([judged.accuracy_before, judged.accuracy_after]),
                _change([max(judged.success_before), max(judged.success_after)]),
                cleaning.scans[-1].finding.verdict if cleaning.repaired else "-",
                _change([measure.success(m, images, planted, target) for m in (model, cleaning.model)])
                if cleaning.repaired
                else "unchanged",
            )
    return table


def _change(shares: Sequence[float]) -> str:
    before, after = shares
    return f"{before:.1%} to {after:.1%}"
