"""A clean and a backdoored model of one seed: scanned, compared, repaired in the paper's ways and in ours."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path

import torch

from detrigger import identify
from detrigger.attack import Planted
from detrigger.bench.paper_records import Alike, Neurons, Studied, Told
from detrigger.bench.paper_repairs import Case, by_layer, curve, outcomes, some
from detrigger.bench.paper_train import Order, as_json, commit, drawn_target, loaded, plant
from detrigger.budgets import Budget
from detrigger.engine import remembered, threads
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report.pictures import png, trigger_png
from detrigger.save import write_atomically
from detrigger.scan import Backdoor, Scan, ScanConfig, scan

SUPPLY = 0.2
"""Share of the training images that the paper's repairs are given."""
SHOWN = 2000
"""Images at most that the neurons' activations are measured on."""


def study(order: Order) -> Studied:
    """Look into the two models that were trained for a seed; write a card and pictures of the triggers."""
    began = time.process_time()
    parts = order.data()
    given, judge = parts.scanner.images(), parts.judge.images()
    target = drawn_target(order.seed, len(given.names))
    spec = order.plan.specification(order.seed, order.attack(target))
    planted = plant(spec, given.shape)[0]
    twin, model = (loaded(order.other(part), given) for part in ("clean", "backdoored"))
    config = ScanConfig(budget=_budget(order))
    clean_scan = _scanned(order, "clean", twin, given, config)
    found = _scanned(order, "backdoored", model, given, config)
    generator = torch.Generator().manual_seed(order.seed)
    pool = torch.randperm(len(parts.train.y), generator=generator)[: round(SUPPLY * len(parts.train.y))]
    named = found.backdoors
    case = Case(model, given, judge, named, planted, order.seed)
    right = next((b for b in named if b.target == target and b.family in ("patch", "additive")), None)
    _pictures(order, judge, planted, right)
    card = Studied(
        target=target,
        clean=told(clean_scan),
        backdoored=told(found),
        alike=_alike(model, some(judge, SHOWN), right, planted) if right else None,
        outcomes=outcomes(case, parts.train.where(pool).images(), found, config) if named else (),
        curve=curve(case) if named else (),
        layers=by_layer(case, order.plan.stops) if named else (),
        cpu_seconds=round(time.process_time() - began, 1),
        megabytes=megabytes(),
        commit=commit(),
        recipe=order.recipe(),
    )
    write_atomically(order.card, as_json(card))
    shutil.rmtree(_chunks(order), ignore_errors=True)
    return card


def _chunks(order: Order) -> Path:
    return order.out / "chunks" / order.name


def _scanned(order: Order, part: str, model: Classifier, given: Images, config: ScanConfig) -> Scan:
    """A scan that goes on where an earlier, interrupted one of the same commit stopped."""
    folder = _chunks(order)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {"part": part, "recipe": order.recipe(), "config": config, "commit": commit()}
    kept = remembered(threads(1), folder, inputs)
    return scan(model, given, config, seed=order.seed, map=kept)


def _budget(order: Order) -> Budget:
    budget: Budget = order.plan.budget  # type: ignore[assignment]  # read_plans has checked it
    return budget


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


def megabytes() -> int:
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


def _alike(model: Classifier, images: Images, found: Backdoor, planted: Planted) -> Alike:
    assert planted.trigger is not None
    match = identify.compare(model, images, found.trigger, planted.trigger, found.target)
    neurons = [
        Neurons(n.layer, n.activation_clean, n.activation_known, n.activation_found, n.cosine, n.top_overlap)
        for n in match.neurons
    ]
    return Alike(
        success_found=match.success_found,
        success_known=match.success_known,
        size_found=match.size_found,
        size_known=match.size_known,
        mask_overlap=match.mask_overlap,
        centre_distance=match.centre_distance,
        structural_similarity=match.structural_similarity,
        neurons=tuple(neurons),
    )


def _pictures(order: Order, judge: Images, planted: Planted, found: Backdoor | None) -> None:
    """The true trigger, the synthesised one, and one image as it is and with each."""
    assert planted.trigger is not None
    shown = judge.x[judge.y != planted.target][:1]
    drawn = {
        "planted": trigger_png(planted.trigger),
        "image": png(shown[0]),
        "stamped": png(planted.stamp(shown)[0]),
    }
    if found:
        drawn |= {"found": trigger_png(found.trigger), "restamped": png(found.trigger(shown)[0, 0])}
    for name, content in drawn.items():
        write_atomically(order.out / "pictures" / f"{order.plan.id}_{order.seed}_{name}.png", content)
