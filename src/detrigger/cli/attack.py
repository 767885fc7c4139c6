"""`detrigger attack`"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import msgspec
import torch

from detrigger import measure
from detrigger.attack import Planted
from detrigger.attack.methods import Attacked, AttackSpec, read_spec, run, victims
from detrigger.cli.console import emit, progress
from detrigger.cli.results import check_file
from detrigger.images import Images
from detrigger.load import load_classifier, load_images
from detrigger.load.architecture import build
from detrigger.model import Classifier
from detrigger.save import made, save_classifier, save_trigger, write_atomically
from detrigger.trigger.additive import AdditiveTrigger
from detrigger.trigger.colour import ColourTrigger
from detrigger.trigger.patch import PatchTrigger
from detrigger.trigger.warp import WarpTrigger

RECORD, TRIGGER, SAFETENSORS = ".json", ".trigger", ".safetensors"
"""Endings put to the name of the model's file."""

_FAMILY = {
    PatchTrigger: "patch",
    AdditiveTrigger: "additive",
    WarpTrigger: "warp",
    ColourTrigger: "colour",
}


def attack(
    spec: Path,
    *,
    data: Path,
    test: Path,
    out: Path,
    helper: Path | None = None,
) -> int:
    """Train a model from a recipe, with a backdoor or without, for experiments.

    Parameters
    ----------
    spec
        Recipe in TOML: [network] arch and arguments, [train], [attack] (left out for a clean model), seed.
    data
        Training images: a folder of class folders, or an .npz.
    test
        Images that accuracy and attack success rate are measured on.
    out
        The model, .safetensors. Beside it: the record FILE.json and, for triggers that are the same on every
        image, FILE.trigger.safetensors, or FILE.trigger_0.safetensors and so on if there are several.
    helper
        A clean model with the recipe's architecture, for attacks that look into one.
    """
    recipe = read_spec(spec)
    check_file(out, (RECORD, f"{TRIGGER}{SAFETENSORS}"), inputs=(spec, data, test, helper))
    training, tested = (
        load_images(path, size=None, channels=None, limit_per_class=None, seed=recipe.seed)
        for path in (data, test)
    )
    arch = recipe.arch
    if ":" in arch and not arch.startswith(("timm:", "torchvision:", "/")):
        arch = str(spec.parent / arch)  # a factory's file is named relative to the recipe
    shape, names = training.shape, training.names
    clean = None
    if helper is not None:
        clean = load_classifier(helper, arch, recipe.arguments, shape=shape, names=names).net
    torch.manual_seed(recipe.seed)
    net = build(arch, recipe.arguments, {})
    began = time.process_time()
    with progress("training") as callback:
        attacked = run(
            net, training, recipe, helper=clean, progress=lambda done, total, loss: callback(done, total)
        )
    seconds = time.process_time() - began
    model = Classifier(attacked.net, names, shape)
    record = msgspec.json.encode(_record(recipe, model, attacked, tested, seconds))
    made(out.parent)
    save_classifier(model, out)
    _save_triggers(attacked.planted, out)
    write_atomically(Path(f"{out}{RECORD}"), msgspec.json.format(record, indent=2) + b"\n")
    emit(record)
    return 0


def _save_triggers(planted: tuple[Planted, ...], out: Path) -> None:
    for i, one in enumerate(planted):
        if one.trigger is not None:
            number = f"_{i}" if len(planted) > 1 else ""
            path = Path(f"{out}{TRIGGER}{number}{SAFETENSORS}")
            save_trigger(one.trigger, path, target=one.target, family=_FAMILY[type(one.trigger)])


def _record(
    recipe: AttackSpec, model: Classifier, attacked: Attacked, tested: Images, cpu_seconds: float
) -> dict[str, object]:
    return {
        "recipe": dataclasses.asdict(recipe),
        "poisoned_images": attacked.poisoned,
        "cover_images": attacked.covers,
        "clean_accuracy": measure.accuracy(model, tested),
        "backdoors": [_backdoor(model, tested, one) for one in attacked.planted],
        "test_images": len(tested),
        "cpu_seconds": cpu_seconds,
        "torch": str(torch.__version__),
    }


def _backdoor(model: Classifier, tested: Images, planted: Planted) -> dict[str, object]:
    mask, wanted = victims(planted, tested.y, len(tested.names))
    found = measure.stamped(model, tested.where(mask), planted.stamp, wanted[mask])
    return {
        "target": planted.target,
        "sources": planted.sources,
        "images": found.images,
        "attack_success_rate": found.success,
        "robust_accuracy": found.robust,
        "rate_without_trigger": found.without,
    }
