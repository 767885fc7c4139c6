"""A backdoored model that was scanned: compared with the truth, repaired in several ways, pruned by steps."""

from __future__ import annotations

import time

import torch

from detrigger import identify
from detrigger.attack import Planted
from detrigger.bench.paper_records import Alike, Neurons, Studied
from detrigger.bench.paper_repairs import Case, by_layer, curve, outcomes, some
from detrigger.bench.paper_scan import SCAN, config, remembered_scan
from detrigger.bench.paper_train import Order, as_json, commit, drawn_target, loaded, plant
from detrigger.bench.processes import peak_memory
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report.pictures import png, trigger_png
from detrigger.save import write_atomically
from detrigger.scan import Backdoor

SUPPLY = 0.2
"""Share of the training images that the paper's repairs are given."""
SHOWN = 2000
"""Images at most that the neurons' activations are measured on."""


def study(order: Order) -> Studied:
    """Look into the backdoored model of a seed, beginning with its scan; write a card and pictures.

    Raises DataError if that scan is not there.
    """
    began = time.process_time()
    parts = order.data()
    given, judge = parts.scanner.images(), parts.judge.images()
    target = drawn_target(order.seed, len(given.names))
    spec = order.plan.specification(order.seed, order.attack(target))
    planted = plant(spec, given.shape)[0]
    model = loaded(order.other("backdoored"), given)
    found = remembered_scan(order.other(f"{SCAN}backdoored"), model)
    generator = torch.Generator().manual_seed(order.seed)
    pool = torch.randperm(len(parts.train.y), generator=generator)[: round(SUPPLY * len(parts.train.y))]
    named = found.backdoors
    supply = parts.train.where(pool).images()
    rescans = config(order) if order.plan.loop else None
    case = Case(model, given, judge, named, planted, order.seed)
    right = next((b for b in named if b.target == target and b.family in ("patch", "additive")), None)
    _pictures(order, judge, planted, right)
    card = Studied(
        target=target,
        alike=_alike(model, some(judge, SHOWN), right, planted) if right else None,
        outcomes=outcomes(case, supply, found, rescans) if named else (),
        curve=curve(case) if named else (),
        layers=by_layer(case, order.plan.stops) if named else (),
        cpu_seconds=round(time.process_time() - began, 1),
        megabytes=peak_memory() // 2**20,
        commit=commit(),
        recipe=order.recipe(),
    )
    write_atomically(order.card, as_json(card))
    return card


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
