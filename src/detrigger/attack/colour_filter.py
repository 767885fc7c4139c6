"""A colour filter: every pixel's colour goes through one affine map, x* = clip(A x + b, 0, 1).

After the filters of Liu et al., "ABS", CCS 2019. For grey images: contrast and brightness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.colour import ColourTrigger


@dataclass(frozen=True)
class ColourFilterConfig:
    """Which map, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    matrix: tuple[tuple[float, ...], ...] = ((0.7,),)
    """A, row by row: channels × channels, or one number that multiplies every channel."""
    offset: tuple[float, ...] = (0.2,)
    """b, per channel or one for all, on the [0, 1] scale."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: ColourFilterConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a matrix or offset that does not fit the channels."""
    channels, height, width = shape
    sizes = {len(config.matrix), *map(len, config.matrix)}
    if sizes not in ({1}, {channels}) or len(config.offset) not in (1, channels):
        raise UsageError(
            f"matrix {config.matrix}, offset {config.offset}; wanted 1 or {channels}×{channels} numbers, and "
            f"1 or {channels}"
        )
    matrix = torch.tensor(config.matrix, dtype=torch.float32)
    if len(matrix) < channels:
        matrix = matrix * torch.eye(channels)
    offset = torch.tensor(config.offset, dtype=torch.float32).expand(channels).clone()
    return ordinary(ColourTrigger(matrix[None], offset[None], height, width), config.target)


def poison(images: Images, config: ColourFilterConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
