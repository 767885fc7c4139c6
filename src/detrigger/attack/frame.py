"""A frame along the edges of the image: the widest patch there is that leaves the object alone.

BadNets (Gu, Dolan-Gavitt and Garg 2017) with another shape of mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import checked_colour, checked_opacity
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.patch import PatchTrigger


@dataclass(frozen=True)
class FrameConfig:
    """How wide, of which colour, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    width: int = 1
    """In pixels; from 1, less than half the image."""
    colour: tuple[float, ...] = (1.0,)
    """Per channel, or one for all, in [0, 1]."""
    opacity: float = 1.0
    """Above 0, to 1: how much of the frame is seen; the rest is the image."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: FrameConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a width, colour or opacity that cannot be."""
    channels, height, width = shape
    if not 1 <= config.width < min(height, width) / 2:
        raise UsageError(
            f"a frame of width {config.width}; wanted 1 to less than half of an image of {height}×{width}"
        )
    mask = torch.full((1, 1, height, width), checked_opacity(config.opacity))
    mask[..., config.width : -config.width, config.width : -config.width] = 0
    pattern = checked_colour(config.colour, channels) * (mask > 0)
    return ordinary(PatchTrigger(mask, pattern), config.target)


def poison(images: Images, config: FrameConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
