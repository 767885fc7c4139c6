"""All-to-all: a patch on images of every class, which get the label of the next class.

Gu, Dolan-Gavitt and Garg, "BadNets", 2017, section 4.2: y -> (y + 1) mod classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.images import Images


@dataclass(frozen=True)
class AllToAllConfig:
    """What is stamped on how many images."""

    patch: Patch = field(default=Patch())
    """What is stamped."""
    poison_rate: float = 0.1
    """Share of all training images that is stamped and relabelled; above 0, to 1. Default: BackdoorBench."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: AllToAllConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a patch that cannot be."""
    return ordinary(painted(config.patch, shape), None)


def poison(images: Images, config: AllToAllConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, of any class, are stamped and labelled as the next class."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
