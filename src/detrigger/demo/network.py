"""The paper's network for MNIST: four blocks of convolution, batch norm and ReLU (Menisov 2022, table 2).

Self-contained, so that it can be named on the command line: `--arch network.py:make`.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def make(channels: int = 1, classes: int = 10, width: int = 32, size: int = 28) -> nn.Module:
    """An untrained network for images in [0, 1] of `size` × `size` pixels, at least 8.

    `width` is the number of channels of the first two blocks; the last two have twice as many.
    """
    if size < 8:
        raise ValueError(
            f"images of {size}×{size} pixels are too small for three poolings, wanted at least 8"
        )
    parts: dict[str, nn.Module] = {
        "block1": _block(channels, width),
        "pool1": nn.MaxPool2d(2),
        "block2": _block(width, width),
        "pool2": nn.MaxPool2d(2),
        "block3": _block(width, 2 * width),
        "pool3": nn.MaxPool2d(2),
        "block4": _block(2 * width, 2 * width),
        "average": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(2 * width, classes),
    }
    return nn.Sequential(OrderedDict(parts))


def _block(channels: int, width: int) -> nn.Sequential:
    parts: dict[str, nn.Module] = {
        "conv": nn.Conv2d(channels, width, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(width),
        "relu": nn.ReLU(),
    }
    return nn.Sequential(OrderedDict(parts))
