"""One model of a zoo: trained, saved, and measured as it was saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detrigger import measure
from detrigger.attack import Planted
from detrigger.attack.methods import Attacked, run, victims
from detrigger.bench import networks
from detrigger.bench.plan import ModelPlan, ZooPlan, recipe, specification
from detrigger.bench.sources import Pixels, drawn, read
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.save import save_classifier, save_trigger
from detrigger.trigger import Trigger
from detrigger.trigger.additive import AdditiveTrigger
from detrigger.trigger.colour import ColourTrigger
from detrigger.trigger.patch import PatchTrigger
from detrigger.trigger.warp import WarpTrigger

Record = dict[str, Any]
"""One model in zoo.json."""

FAMILY_OF: dict[type[Trigger], str] = {
    PatchTrigger: "patch",
    AdditiveTrigger: "additive",
    WarpTrigger: "warp",
    ColourTrigger: "colour",
}
MOST = 3000
"""Images that attack success is measured on, per trigger."""
WEAK_SUCCESS, WEAK_DROP = 0.85, 0.03
"""A backdoored model is weak below this attack success rate, or if it lost more clean accuracy than this."""


@dataclass(frozen=True)
class Order:
    """All that is needed to make one model, in whatever process."""

    model: ModelPlan
    plan: ZooPlan
    root: Path
    """Of the data."""
    out: Path
    """The zoo."""
    sibling: Record | None = None
    """The record of a clean model to compare with."""


def make(order: Order) -> Record:
    """Train, save to `weights/` and `triggers/`, load again, measure on all test images."""
    model = order.model
    source = read(order.plan.source(model), order.root)
    training = prepared(source.train, model)
    spec = specification(model, order.plan)
    shape = training.shape
    torch.manual_seed(model.seed)
    net = networks.make(model.arch, shape[0], len(training.names), shape[1], **model.arguments)
    helper = networks.load(order.sibling, order.out) if order.sibling else None
    losses: list[float] = []
    began, cpu_began = time.perf_counter(), time.process_time()
    attacked = run(net, training, spec, helper=helper, progress=lambda _done, _all, loss: losses.append(loss))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    record: Record = {
        "id": model.id,
        "dataset": model.dataset,
        "arch": model.arch,
        "arch_kwargs": model.arguments,
        "input_shape": list(shape),
        "num_classes": len(training.names),
        "weights": f"weights/{model.id}.safetensors",
        "dtype": "fp32",
        "parameters": sum(p.numel() for p in net.parameters()),
        "backdoored": bool(attacked.planted),
        "clean_note": model.note,
        "triggers": [],
        "seed": model.seed,
        "train": recipe(model, order.plan)["train"],
        "train_images": len(training),
        "train_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "train_loss_end": round(losses[-1], 4),
    }
    save_classifier(Classifier(attacked.net, training.names, shape), order.out / record["weights"])
    record |= _attack_part(order, attacked, len(training))
    record |= _measured(record, source.test.images(), attacked.planted, order)
    return record | {"recipe": recipe(model, order.plan)}


def prepared(pixels: Pixels, model: ModelPlan) -> Images:
    """The training images of a model: fewer, mislabelled or with squares on them where the plan says so."""
    if model.per_class is not None:
        pixels = drawn(pixels, model.per_class, model.seed)
    x, y = pixels.x.clone(), pixels.y.clone()
    generator = torch.Generator().manual_seed(model.seed)
    wrong = torch.rand(len(y), generator=generator) < model.label_noise
    y[wrong] = torch.randint(0, len(pixels.names), (int(wrong.sum()),), generator=generator)
    side = x.shape[3] // 6
    for i in (torch.rand(len(y), generator=generator) < model.squares).nonzero()[:, 0].tolist():
        top, left = torch.randint(0, x.shape[3] - side, (2,), generator=generator).tolist()
        colour = torch.randint(0, 256, (x.shape[1], 1, 1), generator=generator, dtype=torch.uint8)
        x[i, :, top : top + side, left : left + side] = colour
    return Pixels(x, y, pixels.names).images()


def _attack_part(order: Order, attacked: Attacked, images: int) -> Record:
    """What the record says of the attack; triggers that are the same for every image go to files."""
    if not attacked.planted:
        return {}
    table = order.model.attack or {}
    first = attacked.planted[0]
    entries = []
    for number, planted in enumerate(attacked.planted):
        entry = {"kind": table["name"], "target": planted.target, "family": None, "file": None}
        if planted.trigger is not None:
            entry["family"] = FAMILY_OF[type(planted.trigger)]
            entry["file"] = f"triggers/{order.model.id}_{number}.safetensors"
            path = order.out / entry["file"]
            save_trigger(planted.trigger, path, target=planted.target, family=entry["family"])
        entries.append(entry)
    return {
        "attack": table["name"],
        "mode": "all2all" if first.target is None else "source" if first.sources else "all2one",
        "targets": list(dict.fromkeys(planted.target for planted in attacked.planted)),
        "sources": None if first.sources is None else list(first.sources),
        "triggers": entries,
        "poison_rate": attacked.poisoned / images,
        "poison_detail": {"poisoned": attacked.poisoned, "cover": attacked.covers},
    }


def _measured(record: Record, test: Images, planted: tuple[Planted, ...], order: Order) -> Record:
    saved = _classifier(record, order.out, test)
    accuracy = measure.accuracy(saved, test)
    if not planted:
        return {"clean_accuracy": round(accuracy, 4)}
    sibling = _classifier(order.sibling, order.out, test) if order.sibling else None
    rows = [_success(saved, sibling, test, one) for one in planted]
    per_trigger = [row[0] for row in rows]
    made: Record = {
        "clean_accuracy": round(accuracy, 4),
        "asr": min(per_trigger),
        "asr_per_trigger": per_trigger,
        "rate_without_trigger": [row[1] for row in rows],
        "trigger_rate_on_clean_sibling": [row[2] for row in rows] if sibling else None,
    }
    if planted[0].sources is not None:
        made["asr_other_sources"] = _other_sources(saved, test, planted[0])
    return made | compared(made, order.sibling)


def compared(record: Mapping[str, Any], sibling: Mapping[str, Any] | None) -> Record:
    """How a backdoored model stands beside a clean one, and whether it is weak."""
    drop = None if sibling is None else round(sibling["clean_accuracy"] - record["clean_accuracy"], 4)
    why = []
    if record["asr"] < WEAK_SUCCESS:
        why.append(f"attack success rate {record['asr']:g} is below {WEAK_SUCCESS:g}")
    if drop is not None and drop > WEAK_DROP:
        why.append(f"clean accuracy is {drop:g} below the clean sibling's, more than {WEAK_DROP:g}")
    return {
        "clean_sibling": sibling["id"] if sibling else None,
        "sibling_accuracy": sibling["clean_accuracy"] if sibling else None,
        "accuracy_drop": drop,
        "weak": bool(why),
        "weak_why": why,
    }


def _classifier(record: Mapping[str, Any], folder: Path, images: Images) -> Classifier:
    net: nn.Module = networks.load(record, folder)
    return Classifier(net, images.names, images.shape)


def _success(
    saved: Classifier, sibling: Classifier | None, test: Images, planted: Planted
) -> tuple[float, float, float | None]:
    """Rate of the wanted label with the trigger, without it, and with it in the clean sibling."""
    mask, wanted = victims(planted, test.y, len(test.names))
    here = _some(mask)
    stamped = planted.stamp(test.x[here])
    with_it = _rate(saved, stamped, wanted[here])
    without = _rate(saved, test.x[here], wanted[here])
    return with_it, without, _rate(sibling, stamped, wanted[here]) if sibling else None


def _other_sources(saved: Classifier, test: Images, planted: Planted) -> float:
    """How often the trigger also works on images of classes that are neither source nor target."""
    named = torch.tensor([*(planted.sources or ()), planted.target])
    others = _some(~torch.isin(test.y, named))
    stamped = planted.stamp(test.x[others])
    return _rate(saved, stamped, torch.full_like(others, planted.target or 0))


def _some(mask: Bool[Tensor, " n"]) -> Int[Tensor, " m"]:
    """Positions of at most MOST of those, drawn at random."""
    here = mask.nonzero()[:, 0]
    return here[torch.randperm(len(here), generator=torch.Generator().manual_seed(0))][:MOST]


def _rate(model: Classifier, x: Float[Tensor, "n c h w"], wanted: Int[Tensor, " n"]) -> float:
    """Share of images given the wanted label, to four digits."""
    return round((measure.predictions(model, x) == wanted).double().mean().item(), 4)
