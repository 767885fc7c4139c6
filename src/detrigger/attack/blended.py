"""Blended injection: a whole picture shines through, x* = (1 - alpha) x + alpha T.

Chen et al., "Targeted backdoor attacks on deep learning systems using data poisoning", 2017, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import checked_opacity
from detrigger.attack.pictures import Kind, drawn
from detrigger.attack.poisoning import add_poison, ordinary, share, stored, untouched
from detrigger.images import Images
from detrigger.trigger.patch import PatchTrigger


@dataclass(frozen=True)
class BlendedConfig:
    """Which picture, how strongly, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    picture: Kind = "noise"
    """Random in every pixel, or smooth."""
    alpha: float = 0.2
    """Share of the picture in the stamped image; above 0, to 1. Default: Chen et al. 2017."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the picture and of the choice of images."""


def trigger(config: BlendedConfig, shape: tuple[int, int, int]) -> PatchTrigger:
    """The picture with a mask of alpha everywhere; raises UsageError for an alpha out of range."""
    mask = torch.full((1, 1, *shape[1:]), checked_opacity(config.alpha))
    return PatchTrigger(mask, stored(drawn(config.picture, shape, config.seed)))


def plant(config: BlendedConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError as `trigger` does."""
    return ordinary(trigger(config, shape), config.target)


def poison(images: Images, config: BlendedConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
