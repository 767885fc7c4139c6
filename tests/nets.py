"""Small networks, their files, and a file of the user's own that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detrigger.load import load_classifier, parse_arguments
from detrigger.model import Classifier

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
NAMES = tuple("abcde")
FACTORY = """
import torch
from torch import nn

def make(channels=3, classes=5, ending="logits"):
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, classes))
    return nn.Sequential(*net, nn.Softmax(1)) if ending == "softmax" else net

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a
    def forward(self, x):
        return self.b(self.a(x.mean((2, 3))))

def number():
    return 5

class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(7, 3)
    def forward(self, x):
        return self.a(x.flatten(1))
"""


def written(folder: Path) -> str:
    """The architecture in a file, as a user would name it."""
    (folder / "arch.py").write_text(FACTORY)
    return f"{folder / 'arch.py'}:make"


def weights(path: Path, net: nn.Module = NET) -> Path:
    save_file(net.state_dict(), path)
    return path


def load(path: Path, arch: str | None, *arguments: str, **options: Any) -> Classifier:
    settings: dict[str, Any] = {"shape": (3, 8, 8), "names": NAMES} | options
    return load_classifier(path, arch, parse_arguments(arguments), **settings)


def logits(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(x)
