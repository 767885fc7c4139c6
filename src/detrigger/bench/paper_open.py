"""The paper's open points: how large a trigger may be, several infected classes, several triggers for one."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import msgspec

from detrigger import measure
from detrigger.bench.paper_plan import OpenPlan, PaperPlan
from detrigger.bench.paper_records import Case, Told
from detrigger.bench.paper_study import told
from detrigger.bench.paper_train import Order, as_json, commit, drawn_target, made, plant, success
from detrigger.clean import clean
from detrigger.detect import PLAIN, detect
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.neural_cleanse import NeuralCleanseConfig, neural_cleanse
from detrigger.save import write_atomically
from detrigger.scan import ScanConfig, scan

PLACES: tuple[dict[str, Any], ...] = (
    {"place": "lower right"},
    {"place": "upper left", "pattern": "checker"},
    {"place": "upper right"},
    {"place": "lower left", "pattern": "checker"},
    {"place": (1, 12), "height": 3, "width": 6},
)
"""Of several triggers in one model, in this order."""
RATE = 0.02
"""Share of the training images that each trigger is stamped on."""


def cases(plan: OpenPlan) -> tuple[str, ...]:
    """What is tried, as parts of orders."""
    numbers = {"size": plan.sizes, "targets": plan.targets, "triggers": plan.triggers}
    return tuple(f"{kind} {number}" for kind, row in numbers.items() for number in row)


def attack(kind: str, number: int, target: int, classes: int) -> dict[str, Any]:
    """What is planted: a square of `number` pixels, or `number` patches for different targets or for one."""
    if kind == "size":
        return {
            "name": "badnets",
            "target": target,
            "height": number,
            "width": number,
            "poison_rate": RATE,
        }
    step = 3 if kind == "targets" else 0  # with ten classes, five different targets
    aimed = [{"target": (target + step * i) % classes, "patch": PLACES[i]} for i in range(number)]
    return {"name": "several", "backdoors": aimed, "poison_rate": RATE}


def recipe(order: Order) -> dict[str, Any]:
    """All that decides what comes of a case."""
    kind, number = order.part.split()
    made = _plan(order).recipe(order.seed, {"kind": kind, "number": int(number)})
    found: dict[str, Any] = made | {"cleanse": msgspec.json.decode(msgspec.json.encode(_open(order).cleanse))}
    return found


def case(order: Order) -> Case:
    """Train one model, scan it, by the published method too if that is planned, and run the loop on it."""
    began = time.process_time()
    plan = _plan(order)
    parts = dataclasses.replace(order, plan=plan).data()
    training, given, judge = (p.images() for p in (parts.train, parts.scanner, parts.judge))
    kind, number = order.part.split()
    target = drawn_target(order.seed, len(training.names))
    spec = plan.specification(order.seed, attack(kind, int(number), target, len(training.names)))
    planted = plant(spec, training.shape)
    model, _ = made(plan, spec, training)
    found = scan(model, given, seed=order.seed)
    plain = _published(order, model, given) if kind == "size" and _open(order).cleanse else None
    loop = clean(model, given, ScanConfig(), first=found, seed=order.seed)
    card = Case(
        kind=kind,
        number=int(number),
        seed=order.seed,
        targets=tuple(p.target for p in planted if p.target is not None),
        accuracy=measure.accuracy(model, judge),
        success=tuple(success(model, judge, p) for p in planted),
        told=told(found),
        cleanse=plain,
        rounds=sum(attempt.chosen for attempt in loop.attempts),
        repaired=loop.repaired,
        last=loop.scans[-1].finding.verdict,
        accuracy_after=measure.accuracy(loop.model, judge),
        success_after=tuple(success(loop.model, judge, p) for p in planted),
        reason=loop.reason,
        cpu_seconds=round(time.process_time() - began, 1),
        commit=commit(),
        recipe=recipe(order),
    )
    write_atomically(order.card, as_json(card))
    return card


def _published(order: Order, model: Classifier, given: Images) -> Told:
    """Neural Cleanse with the published verdict."""
    config = msgspec.convert(_open(order).cleanse, NeuralCleanseConfig)
    targets = tuple(range(len(given.names)))
    began, cpu_began = time.perf_counter(), time.process_time()
    inversion = neural_cleanse(model, given, targets, config, seed=order.seed)
    finding = detect({inversion.family: inversion}, given.names, given.shape, PLAIN)
    sizes = inversion.size.sort()
    return Told(
        verdict=finding.verdict,
        probability=finding.probability,
        found=tuple(c.index for c in finding.suspects) if finding.verdict != "clean" else (),
        size=sizes.values[0].item(),
        smallest=int(sizes.indices[0]),
        next_size=sizes.values[1].item(),
        image_passes=inversion.image_passes,
        seconds=round(time.perf_counter() - began, 1),
        cpu_seconds=round(time.process_time() - cpu_began, 1),
        images=len(given),
    )


def _open(order: Order) -> OpenPlan:
    assert order.plan.open is not None
    return order.plan.open


def _plan(order: Order) -> PaperPlan:
    """The spec with fewer training images and their recipe."""
    planned = _open(order)
    data = dataclasses.replace(order.plan.data, limit=planned.limit)
    return dataclasses.replace(order.plan, data=data, train=planned.train)
