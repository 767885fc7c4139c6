"""`detrigger attack`"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import msgspec
import torch

from detrigger import attack as attacks
from detrigger import measure
from detrigger.cli.console import emit, progress
from detrigger.cli.results import check_writable
from detrigger.images import Images
from detrigger.load import load_images
from detrigger.load.architecture import build
from detrigger.model import Classifier
from detrigger.save import save_classifier, save_trigger, write_atomically


def attack(
    spec: Path,
    *,
    data: Path,
    test: Path,
    out: Path,
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
        The model, .safetensors; FILE.trigger.safetensors and the record FILE.json beside it.
    """
    recipe = attacks.read_spec(spec)
    check_writable(out.parent)
    training, tested = (
        load_images(path, size=None, channels=None, limit_per_class=None, seed=recipe.seed)
        for path in (data, test)
    )
    arch = recipe.arch
    if ":" in arch and not arch.startswith(("timm:", "torchvision:", "/")):
        arch = str(spec.parent / arch)  # a factory's file is named relative to the recipe
    torch.manual_seed(recipe.seed)
    net = build(arch, recipe.arguments, {})
    began = time.process_time()
    with progress("training") as callback:
        made = attacks.run(net, training, recipe, progress=lambda done, total, loss: callback(done, total))
    model = Classifier(made.net, training.names, training.shape)
    record = _record(recipe, model, made, tested, time.process_time() - began)
    save_classifier(model, out)
    if made.trigger is not None:
        save_trigger(made.trigger, Path(f"{out}.trigger.safetensors"), target=made.target, family="patch")
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    write_atomically(Path(f"{out}.json"), text + b"\n")
    emit(text.decode())
    return 0


def _record(
    recipe: attacks.AttackSpec, model: Classifier, made: attacks.Attacked, tested: Images, cpu_seconds: float
) -> dict[str, object]:
    asr = None
    if made.trigger is not None and made.target is not None:
        asr = measure.success(model, tested, made.trigger, made.target)
    return {
        "recipe": dataclasses.asdict(recipe),
        "target": made.target,
        "poisoned_images": made.poisoned,
        "clean_accuracy": measure.accuracy(model, tested),
        "attack_success_rate": asr,
        "test_images": len(tested),
        "cpu_seconds": cpu_seconds,
        "torch": str(torch.__version__),
    }
