"""PixelBackdoor (Gwinhen/PixelBackdoor), torch version, at the defaults of its main_torch.py.

Its command line takes one pair; here it goes from all classes to each class in turn.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import torch
from patches import OnCpu

STEPS, BATCH, IMAGES = 1000, 32, 50
"""Of its class, and --batch_size and --attack_size of its command line."""
RULE = (
    "anomaly index (as in Neural Cleanse) of the number of changed pixels above 2; it gives no verdict itself"
)


def peer(checkout: str):
    path = Path(checkout) / "src" / "inversion_torch.py"
    spec = importlib.util.spec_from_file_location("pixel_inversion", path)
    inversion = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = inversion
    spec.loader.exec_module(inversion)
    inversion.torch = OnCpu()

    def ask(model, x, y, classes):
        everything = x.shape[2] * x.shape[3]
        sizes = []
        for target in range(classes):
            search = inversion.PixelBackdoor(
                model, tuple(x.shape[1:]), classes, STEPS, BATCH, normalize=lambda images: images
            )
            with contextlib.redirect_stdout(io.StringIO()):
                pattern = search.generate((classes, target), x, y, attack_size=IMAGES)
            changed = int((pattern.abs().sum(0) > 0).sum())
            sizes.append(changed or everything)  # it returns zeros where it found no trigger
        index = anomaly(torch.tensor(sizes, dtype=torch.float))
        flagged = sorted((index > 2).nonzero()[:, 0].tolist(), key=lambda c: sizes[c])
        return {
            "statistic": sizes,
            "verdict": "backdoored" if flagged else "clean",
            "targets": flagged,
            "score": index.max().item(),
            "rule": RULE,
        }

    return ask


def anomaly(sizes):
    """(median - size) / (1.4826 MAD); a MAD of 0 counts as half a pixel."""
    median = sizes.quantile(0.5)
    deviation = 1.4826 * (sizes - median).abs().quantile(0.5)
    return (median - sizes) / deviation.clamp_min(0.5)
