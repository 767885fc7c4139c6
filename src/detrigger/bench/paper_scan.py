"""A scan of one model of the paper's experiment, kept so that repairs can begin with it."""

from __future__ import annotations

import shutil
from typing import Any

from detrigger.bench.paper_records import Scanned, Told
from detrigger.bench.paper_train import Order, as_json, commit, loaded
from detrigger.bench.processes import peak_memory
from detrigger.budgets import Budget
from detrigger.engine import remembered, threads
from detrigger.images import Images
from detrigger.load.trigger_file import load_trigger
from detrigger.model import Classifier
from detrigger.report import document
from detrigger.save import made, save_trigger, write_atomically
from detrigger.scan import Scan, ScanConfig, scan

SCAN = "scan "
"""Before the part whose model is scanned, in the part of an order."""


def scanned(order: Order) -> Scanned:
    """Scan the model of an order such as `scan clean`; write what was found and a card.

    A scan that was interrupted goes on, if the commit is the same.
    """
    given = order.data().scanner.images()
    model = loaded(order.other(order.part.removeprefix(SCAN)), given)
    return looked_at(order, model, given, config(order), order.recipe())


def config(order: Order) -> ScanConfig:
    """Of the scans of a spec."""
    budget: Budget = order.plan.budget  # type: ignore[assignment]  # read_plans has checked it
    return ScanConfig(budget=budget)


def looked_at(
    order: Order, model: Classifier, given: Images, config: ScanConfig, recipe: dict[str, Any]
) -> Scanned:
    """Scan a model, and keep the result under the order's name."""
    chunks = order.out / "chunks" / order.name
    inputs = {"part": order.part, "recipe": recipe, "config": config, "commit": commit()}
    found = scan(
        model,
        given,
        config,
        seed=order.seed,
        map=remembered(threads(order.plan.scan_jobs), made(chunks), inputs),
    )
    keep(order, found)
    card = Scanned(told(found), peak_memory() // 2**20, commit(), recipe)
    write_atomically(order.card, as_json(card))
    shutil.rmtree(chunks, ignore_errors=True)
    return card


def keep(order: Order, found: Scan) -> None:
    """The report of a scan and its triggers, below `scans`."""
    folder = made(order.out / "scans" / order.name)
    report = document.document(found)
    for backdoor, entry in zip(found.backdoors, report.backdoors, strict=True):
        path = folder / entry.trigger
        made(path.parent)
        save_trigger(backdoor.trigger, path, target=backdoor.target, family=backdoor.family)
    write_atomically(folder / "report.json", document.encode(report))


def remembered_scan(order: Order, model: Classifier) -> Scan:
    """What `keep` kept."""
    folder = order.out / "scans" / order.name
    report = document.read(folder / "report.json")
    return document.restore(report, model, lambda name: load_trigger(folder / name)[0])


def told(found: Scan) -> Told:
    """What a scan said, in short."""
    sizes = sorted((c.evidence.get("patch size", c.size), c.index) for c in found.finding.classes)
    sizes += [(float("inf"), -1)] * 2
    return Told(
        verdict=found.finding.verdict,
        probability=found.finding.probability,
        found=tuple(b.target for b in found.backdoors),
        size=sizes[0][0],
        smallest=sizes[0][1],
        next_size=sizes[1][0],
        image_passes=found.cost.image_passes,
        seconds=round(found.cost.seconds, 1),
        cpu_seconds=round(found.cost.cpu_seconds, 1),
        images=found.images,
    )
