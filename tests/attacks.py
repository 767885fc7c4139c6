"""One small example of every attack, on noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.methods import ATTACKS
from detrigger.attack.patches import Patch
from detrigger.attack.several import Aimed
from detrigger.images import Images

SHAPE = (3, 12, 14)
CLASSES = 5
SMALL = Patch(height=3, width=2)
TWO = (Aimed(1, SMALL), Aimed(2, Patch(3, 2, "upper left")))
CONFIGS: dict[str, tuple[dict[str, Any], int, int]] = {
    "badnets": ({"target": 1, "poison_rate": 0.1}, 20, 0),
    "all-to-all": ({}, 20, 0),
    "several": ({"backdoors": TWO}, 8, 0),
    "random-location": ({"target": 1}, 10, 0),
    "frame": ({"target": 1, "opacity": 0.8}, 10, 0),
    "blended": ({"target": 1, "picture": "smooth"}, 10, 0),
    "limited": ({"target": 1, "poison_count": 7}, 7, 0),
    "adaptive-patch": ({"target": 1}, 4, 4),
    "adaptive-blend": ({"target": 1, "cover_rate": 0.05}, 4, 10),
    "sig": ({"target": 1}, 10, 0),
    "low-frequency": ({"target": 1}, 10, 0),
    "colour-filter": ({"target": 1}, 10, 0),
    "wanet": ({"target": 1}, 20, 40),
    "bpp": ({"target": 1}, 20, 20),
    "source-specific": ({"target": 1, "sources": (0, 3)}, 6, 12),
    "physical": ({"target": 1}, 10, 0),
    "label-consistent": ({"target": 1, "steps": 2}, 10, 0),
    "trojan-nn": ({"target": 1, "steps": 2}, 20, 0),
}
"""Config, poisoned images and covers of 200."""
CLEAN_LABEL = ("label-consistent",)
PARTIAL = ("adaptive-patch", "adaptive-blend")


def noise(n: int = 200, shape: tuple[int, int, int] = SHAPE) -> Images:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(77))
    return Images(x, torch.arange(n) % CLASSES, tuple("abcde"))


def helper() -> nn.Module:
    torch.manual_seed(0)
    parts = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*parts, nn.Linear(6, CLASSES))


def poisoned(name: str, images: Images, clean: nn.Module | None = None, **changes: Any) -> Poisoned:
    config = ATTACKS[name].config(**(CONFIGS[name][0] | changes))
    return ATTACKS[name].poison(images, config, helper=helper() if clean is None else clean)


def plant(name: str, shape: tuple[int, int, int] = SHAPE, **options: Any) -> Planted:
    make_them = ATTACKS[name].plant
    assert make_them is not None
    (only,) = make_them(ATTACKS[name].config(**options), shape)
    return only


def in_8_bits(x: Tensor) -> bool:
    return bool(((x * 255 - (x * 255).round()).abs() < 1e-4).all() and (x >= 0).all() and (x <= 1).all())


def equal(a: Tensor, b: Tensor) -> bool:
    """Up to one of 255 steps, for what a rounding of its own may tip over."""
    return bool(((a - b).abs() <= 1.001 / 255).all())
