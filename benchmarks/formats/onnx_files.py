"""Load, gradient, repair, save, reload, parity: `onnx_files.py FOLDER`, for the files that `export.py` made.

The network is untrained, so what a repair is worth is not seen here, only that every step works: neurons
before the last layer are silenced, then all weights take two steps of training. Prints a Markdown table.
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

from detrigger.fast import fastest
from detrigger.images import Images
from detrigger.load import load_classifier
from detrigger.model import Classifier, layers
from detrigger.repair.prune import silenced
from detrigger.repair.unlearn import UnlearnConfig, unlearn
from detrigger.save import save_classifier
from detrigger.trigger.patch import PatchTrigger

HEADING = (
    "network",
    "exporter",
    "load (CPU s)",
    "as loaded",
    "layers",
    "other weights",
    "gradient",
    "reloaded",
)


def opened(path: Path, side: int) -> Classifier:
    names = tuple(map(str, range(CLASSES)))
    return load_classifier(path, None, shape=(3, side, side), names=names)


def difference(a: Classifier, b: Classifier, x: torch.Tensor) -> float:
    """Largest, relative to the largest logit."""
    with torch.no_grad():
        left, right = a(x), b(x)
    return ((left - right).abs().max() / left.abs().max().clamp_min(1e-6)).item()


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
    x = torch.rand(CLASSES + 1, 3, side, side)
    images = Images(x, torch.arange(len(x)) % CLASSES, model.classes)
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(y)[:, 0].sum(), y)
    flows = bool(gradient.isfinite().all() and (gradient.flatten(1).abs().sum(1) > 0).all())
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
        f"{back:.0e}",
    )


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    print("|", " | ".join(HEADING), "|")
    print("|", " | ".join("---" for _ in HEADING), "|")
    for name in ARCHITECTURES:
        for exporter in EXPORTERS:
            print("|", " | ".join(row(folder / f"{name}_{exporter}.onnx", name, exporter)), "|", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
