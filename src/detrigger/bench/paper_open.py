"""The paper's open points: how large a trigger may be, several infected classes, several triggers for one."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import msgspec

from detrigger import measure
from detrigger.attack import Planted
from detrigger.attack.methods import AttackSpec
from detrigger.bench.paper_plan import OpenPlan, PaperPlan
from detrigger.bench.paper_records import Case, Scanned, Told, Trained
from detrigger.bench.paper_scan import SCAN, looked_at, remembered_scan, told
from detrigger.bench.paper_train import (
    Order,
    as_json,
    commit,
    drawn_target,
    keep,
    loaded,
    made,
    plant,
    success,
)
from detrigger.bench.processes import peak_memory
from detrigger.clean import clean
from detrigger.detect import PLAIN, detect
from detrigger.images import Images
from detrigger.neural_cleanse import NeuralCleanseConfig, neural_cleanse
from detrigger.save import write_atomically
from detrigger.scan import ScanConfig

MODEL, CLEANSE = "model ", "cleanse "
"""Before a case, in the part of an order; as SCAN."""
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
    """All that decides what comes of a case, or of a part of it."""
    part, kind, number = _words(order)
    made = _plan(order).recipe(order.seed, {"kind": kind, "number": int(number)})
    extra = {"cleanse": msgspec.json.decode(msgspec.json.encode(_open(order).cleanse))}
    found: dict[str, Any] = made | (extra if part == CLEANSE else {})
    return found


def model(order: Order) -> Trained:
    """Train the model of a case; write its weights and its card."""
    plan = _plan(order)
    parts = dataclasses.replace(order, plan=plan).data()
    training, judge = parts.train.images(), parts.judge.images()
    spec, planted = _planted(order, training)
    began = time.process_time()
    network, poisoned = made(plan, spec, training)
    cpu_seconds = time.process_time() - began
    card = Trained(
        accuracy=measure.accuracy(network, judge),
        success=min(success(network, judge, p) for p in planted),
        target=drawn_target(order.seed, len(training.names)),
        classes=len(training.names),
        images=len(training),
        poisoned=poisoned,
        judged=len(judge),
        cpu_seconds=round(cpu_seconds, 1),
        commit=commit(),
        recipe=recipe(order),
    )
    return keep(order, network, card)


def scanned(order: Order) -> Scanned:
    """Scan the model of a case."""
    given = order.data().scanner.images()
    network = loaded(order.other(order.part.replace(SCAN, MODEL)), given)
    return looked_at(order, network, given, ScanConfig(), recipe(order))


def published(order: Order) -> Scanned:
    """Neural Cleanse with the published verdict on the model of a case; write a card."""
    given = order.data().scanner.images()
    network = loaded(order.other(order.part.replace(CLEANSE, MODEL)), given)
    config = msgspec.convert(_open(order).cleanse, NeuralCleanseConfig)
    targets = tuple(range(len(given.names)))
    began, cpu_began = time.perf_counter(), time.process_time()
    inversion = neural_cleanse(network, given, targets, config, seed=order.seed)
    finding = detect({inversion.family: inversion}, given.names, given.shape, PLAIN)
    sizes = inversion.size.sort()
    told = Told(
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
    card = Scanned(told, peak_memory() // 2**20, commit(), recipe(order))
    write_atomically(order.card, as_json(card))
    return card


def case(order: Order) -> Case:
    """Run the loop on the model of a case, beginning with its scan.

    Raises DataError if that scan is not there.
    """
    began = time.process_time()
    parts = order.data()
    given, judge = parts.scanner.images(), parts.judge.images()
    _, kind, number = _words(order)
    _, planted = _planted(order, given)
    network = loaded(order.other(MODEL + order.part), given)
    found = remembered_scan(order.other(SCAN + order.part), network)
    loop = clean(network, given, ScanConfig(), first=found, seed=order.seed)
    card = Case(
        kind=kind,
        number=int(number),
        seed=order.seed,
        targets=tuple(p.target for p in planted if p.target is not None),
        accuracy=measure.accuracy(network, judge),
        success=tuple(success(network, judge, p) for p in planted),
        told=told(found),
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


def _words(order: Order) -> tuple[str, str, str]:
    """Part (empty for the case itself), kind and number."""
    *part, kind, number = order.part.split()
    return "".join(f"{word} " for word in part), kind, number


def _planted(order: Order, images: Images) -> tuple[AttackSpec, tuple[Planted, ...]]:
    """How the model of a case is made, and its backdoors."""
    _, kind, number = _words(order)
    target = drawn_target(order.seed, len(images.names))
    planned = attack(kind, int(number), target, len(images.names))
    spec = _plan(order).specification(order.seed, planned)
    return spec, plant(spec, images.shape)


def _open(order: Order) -> OpenPlan:
    assert order.plan.open is not None
    return order.plan.open


def _plan(order: Order) -> PaperPlan:
    """The spec with fewer training images and their recipe."""
    planned = _open(order)
    data = dataclasses.replace(order.plan.data, limit=planned.limit)
    return dataclasses.replace(order.plan, data=data, train=planned.train)
