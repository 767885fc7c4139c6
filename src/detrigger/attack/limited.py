"""Very few poisoned images, by an attacker who knows neither the model nor the other training images.

Chen et al., "Targeted backdoor attacks on deep learning systems using data poisoning", 2017: about 50 images
with an accessory, a patch that is not necessarily opaque.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_poison, ordinary, untouched
from detrigger.images import Images


@dataclass(frozen=True)
class LimitedConfig:
    """What is stamped on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    patch: Patch = field(default=Patch(height=6, width=6, pattern="noise"))
    """What is stamped."""
    poison_count: int = 50
    """Images that are stamped and relabelled; from 1. Default: Chen et al. 2017."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: LimitedConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a patch that cannot be."""
    return ordinary(painted(config.patch, shape), config.target)


def poison(images: Images, config: LimitedConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_count` images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, config.poison_count, config.seed)
