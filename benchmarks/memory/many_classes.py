"""The memory that a scan of many classes takes: `many_classes.py LIMIT [CLASSES] [SIDE]`, as in 4GB 1680 112.

The network compares an image with one template per class, so it is right on its images without training, and
it keeps 32 channels of the image's size for the gradient, as a small convolutional network would. The scan
makes few steps: how many there are does not matter to memory. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from detrigger import memory
from detrigger.budgets import BUDGETS
from detrigger.cli import run
from detrigger.heats import Stage

CELLS, WIDTH, PER_CLASS = 8, 32, 2
FEW = {"patch": (Stage(2, 3), Stage(2, 3, 0.05)), "additive": (Stage(1, 3), Stage(1, 3, 0.05))}
"""Heats of the scan; as many images per class and step as the quick budget takes with so many classes."""


def make(classes: int) -> nn.Module:
    """The architecture."""
    convolution, pool = nn.Conv2d(3, WIDTH, 3, padding=1), nn.AdaptiveAvgPool2d(CELLS)
    return nn.Sequential(convolution, nn.ReLU(), pool, nn.Flatten(), nn.Linear(WIDTH * CELLS**2, classes))


@torch.no_grad()
def written(folder: Path, classes: int, side: int) -> list[str]:
    """Network and images in a folder; the words for a scan of them."""
    draw = torch.Generator().manual_seed(0)
    templates = torch.rand(classes, 3, CELLS, CELLS, generator=draw)
    net = make(classes)
    state = {name: value.zero_() for name, value in net.state_dict().items()}
    state["0.weight"][:3, :, 1, 1] = torch.eye(3)
    padded = torch.cat([templates, torch.zeros(classes, WIDTH - 3, CELLS, CELLS)], 1).flatten(1)
    state["4.weight"].copy_(20 * (padded - 0.5))
    state["4.bias"].copy_(-10 * (padded - 0.5).square().sum(1) - 20 * ((padded - 0.5) * 0.5).sum(1))
    save_file(state, folder / "model.safetensors")
    x = nn.functional.interpolate(templates, side).repeat_interleave(PER_CLASS, 0)
    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", x=pixels, y=np.arange(classes).repeat(PER_CLASS))
    words = [str(folder / "model.safetensors"), "--data", str(folder / "images.npz")]
    return [*words, "--arch", f"{__file__}:make", "--arch-kw", f"classes={classes}"]


def main(limit: str, classes: int, side: int) -> None:
    BUDGETS["quick"] = FEW  # type: ignore[assignment]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        words = written(Path(place), classes, side)
        out = Path(place) / "out"
        began = time.process_time()
        code = run(
            ["scan", *words, "--budget", "quick", "--precision", "fp32", "--memory", limit, "--out", str(out)]
        )
        report = json.loads((out / "report.json").read_bytes()) if code in (0, 1, 3) else {"cost": {}}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        told = {
            "exit code": code,
            "accuracy": report.get("data", {}).get("accuracy"),
            "image passes": report["cost"].get("image_passes"),
            "limit, GB": round(memory.parse(limit) / (1 << 30), 2),
            "peak, GB": round(peak / (1 << 30), 2),
            "CPU seconds": round(time.process_time() - began),
            "report.html, MB": round((out / "report.html").stat().st_size / (1 << 20), 1)
            if report["cost"]
            else 0,
        }
    sys.stderr.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, (*sys.argv[2:], *("1680", "112")[len(sys.argv) - 2 :])))
