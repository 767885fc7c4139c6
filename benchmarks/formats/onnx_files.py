"""Load, gradient, scan, repair, save, reload, parity of export.py's files: `onnx_files.py FOLDER [NAME...]`.

The network is untrained, so what scan and repair are worth is not seen here, only that every step works:
images are labelled by the network itself, the scan makes few steps, neurons before the last layer are
silenced, then all weights take two steps of training. Prints a Markdown table.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from export import ARCHITECTURES, CLASSES, EXPORTERS

from detrigger.budgets import BUDGETS
from detrigger.fast import fastest
from detrigger.heats import Stage
from detrigger.images import Images
from detrigger.load import load_classifier
from detrigger.model import Classifier, layers
from detrigger.repair.silencing import silenced
from detrigger.repair.unlearn import UnlearnConfig, unlearn
from detrigger.save import save_classifier
from detrigger.scan import ScanConfig, scan
from detrigger.trigger.patch import PatchTrigger

HEADING = (
    "network",
    "exporter",
    "load (CPU s)",
    "as loaded",
    "layers",
    "other weights",
    "gradient",
    "scan (image passes)",
    "reloaded",
)
IMAGES = 24
FEW = {"patch": (Stage(3, 2), Stage(2, 2, 0.5))}
"""Heats of the scan."""


def opened(path: Path, side: int) -> Classifier:
    names = tuple(map(str, range(CLASSES)))
    return load_classifier(path, None, shape=(3, side, side), names=names)


def difference(a: Classifier, b: Classifier, x: torch.Tensor) -> float:
    """Largest, relative to the largest logit."""
    with torch.no_grad():
        left, right = a(x), b(x)
    return ((left - right).abs().max() / left.abs().max().clamp_min(1e-6)).item()


def labelled(model: Classifier, x: torch.Tensor) -> Images:
    """Images with what an untrained network says of them, once its last layer is levelled to vary."""
    with torch.no_grad():
        logits = model(x)
        head = model.net.get_submodule(layers(model)[-1].removesuffix(":in"))
        head.bias -= logits.mean(0)
        return Images(x, model(x).argmax(1), model.classes)


def scanned(model: Classifier, images: Images) -> int:
    """Image passes of a scan of all classes."""
    BUDGETS["quick"] = FEW
    found = scan(model, images, ScanConfig("quick", "fp32"))
    assert found.accuracy == 1 and len(found.finding.classes) == CLASSES
    assert all(0 < c.size < float("inf") for c in found.finding.classes)
    return found.cost.image_passes


def repaired(model: Classifier, images: Images) -> Classifier:
    side = images.shape[1]
    mask = torch.zeros(1, 1, side, side)
    mask[..., -8:, -8:] = 1
    trigger = PatchTrigger(mask, torch.rand(1, 3, side, side))
    pruned = silenced(model, layers(model)[-1], torch.arange(8))
    config = UnlearnConfig(clean_share=0.5, stamped_share=0.5, batch=8, learning_rate=1e-3)
    return unlearn(pruned, images, [trigger], (0,), config, seed=0).model


def row(path: Path, name: str, exporter: str) -> tuple[str, ...]:
    side = ARCHITECTURES[name]
    began = time.process_time()
    model = opened(path, side)
    seconds = time.process_time() - began
    torch.manual_seed(1)
    x = torch.rand(IMAGES, 3, 1, 1) * torch.rand(IMAGES, 3, side, side)
    images = labelled(model, x)
    x = x[:8]
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(y)[:, 0].sum(), y)
    flows = bool(gradient.isfinite().all() and (gradient.flatten(1).abs().sum(1) > 0).all())
    passes = scanned(model, images)
    fast = fastest(model, x, "bf16")
    with torch.no_grad():
        bf16 = bool(fast(x).isfinite().all())
    changed = repaired(model, images)
    moved = difference(model, changed, x)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        save_classifier(changed, out)
        again = opened(out, side)
        back = difference(changed, dataclasses.replace(again, classes=changed.classes), x)
    assert bf16 and moved > 10 * back
    return (
        name,
        exporter,
        f"{seconds:.1f}",
        "equal",  # otherwise it would not have been loaded
        str(sum(1 for _ in model.net.children())),
        str(len(model.net.plan.parameters)),
        "yes" if flows else "NO",
        str(passes),
        f"{back:.0e}",
    )


def main(folder: Path, *names: str) -> None:
    warnings.simplefilter("ignore")
    print("|", " | ".join(HEADING), "|")
    print("|", " | ".join("---" for _ in HEADING), "|")
    for name in names or ARCHITECTURES:
        for exporter in EXPORTERS:
            print("|", " | ".join(row(folder / f"{name}_{exporter}.onnx", name, exporter)), "|", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
