"""BadNets: a patch is stamped on some training images, which get the target's label.

Gu, Dolan-Gavitt and Garg, "BadNets", 2017; the setting of Menisov (2022), "Experiment".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from detrigger.errors import DataError, UsageError
from detrigger.images import Images
from detrigger.trigger.patch import PatchTrigger

Corner = Literal["lower right", "lower left", "upper right", "upper left"]


@dataclass(frozen=True)
class BadNetsConfig:
    """What is stamped, where, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    height: int = 4
    """Of the patch, in pixels; from 1. Default: MNIST in Menisov 2022, table 1."""
    width: int = 4
    """Of the patch, in pixels; from 1."""
    place: Corner | tuple[int, int] = "lower right"
    """A corner, or the y and x of the patch's upper left pixel, from 0. Default: Menisov 2022."""
    margin: int = 1
    """Pixels between the patch and the edges of its corner; from 0; unused with an explicit place."""
    colour: tuple[float, ...] | Literal["random"] = (1.0,)
    """Per channel, or one for all, in [0, 1]; or `random`: every pixel drawn from `seed`."""
    poison_rate: float = 0.02
    """Share of all training images that is stamped and relabelled; above 0, to 1. Default: Menisov 2022."""
    seed: int = 0
    """Of the random pattern and of the choice of images."""


@dataclass(frozen=True)
class Poisoned:
    """A training set with some images stamped and relabelled."""

    images: Images = field(repr=False)
    positions: Int[Tensor, " m"] = field(repr=False)
    """Which images were stamped, ascending."""


def trigger(config: BadNetsConfig, shape: tuple[int, int, int]) -> PatchTrigger:
    """The patch, for images of `shape` (channels, height, width), in steps of 1/255; a stack of one.

    Raises UsageError for a patch that does not fit in such images or a colour that is not one.
    """
    channels, height, width = shape
    y, x = _corner(config, height, width)
    fits = 0 <= y < y + config.height <= height and 0 <= x < x + config.width <= width
    if not fits or config.margin < 0:
        raise UsageError(
            f"a patch of {config.height}×{config.width} at {y},{x} (y,x), margin {config.margin} does not "
            f"fit in images of {height}×{width}; give a smaller patch or another place"
        )
    inside = (..., slice(y, y + config.height), slice(x, x + config.width))
    mask, pattern = torch.zeros(1, 1, height, width), torch.zeros(1, channels, height, width)
    mask[inside] = 1.0
    pattern[inside] = stored(_paint(config, channels))
    return PatchTrigger(mask, pattern)


def poison(images: Images, config: BadNetsConfig) -> Poisoned:
    """A copy of the images in which `poison_rate` of all, drawn from the other classes, point to the target.

    Stamped images are rounded to 8 bits, as stored ones would be.
    Raises UsageError for a target or rate out of range, DataError if the other classes have too few images.
    """
    if not 0 <= config.target < len(images.names):
        raise UsageError(f"target class {config.target}; wanted 0 to {len(images.names) - 1}")
    if not 0 < config.poison_rate <= 1:
        raise UsageError(f"poison_rate {config.poison_rate:g}; wanted above 0 and at most 1")
    others = (images.y.cpu() != config.target).nonzero()[:, 0]
    count = round(config.poison_rate * len(images))
    if not 1 <= count <= len(others):
        raise DataError(
            f"poison_rate {config.poison_rate:g} means {count} of {len(images)} images, wanted from 1 to the "
            f"{len(others)} that are not of class {config.target}; change poison_rate"
        )
    generator = torch.Generator().manual_seed(config.seed)
    chosen = others[torch.randperm(len(others), generator=generator)[:count]].sort().values
    x, y = images.x.clone(), images.y.clone()
    x[chosen] = stored(trigger(config, images.shape)(x[chosen])[0])
    y[chosen] = config.target
    return Poisoned(Images(x, y, images.names, images.path), chosen)


def stored(x: Tensor) -> Tensor:
    """Values in [0, 1] as they come back from an 8-bit file."""
    return (x * 255).round() / 255


def _corner(config: BadNetsConfig, height: int, width: int) -> tuple[int, int]:
    if not isinstance(config.place, str):
        return config.place
    vertical, horizontal = config.place.split()
    y = height - config.height - config.margin if vertical == "lower" else config.margin
    x = width - config.width - config.margin if horizontal == "right" else config.margin
    return y, x


def _paint(config: BadNetsConfig, channels: int) -> Tensor:
    if config.colour == "random":
        generator = torch.Generator().manual_seed(config.seed)
        return torch.rand(channels, config.height, config.width, generator=generator)
    colour = torch.tensor(config.colour, dtype=torch.float32)
    if len(colour) not in (1, channels) or not bool(((colour >= 0) & (colour <= 1)).all()):
        raise UsageError(f"colour {config.colour}; wanted 1 or {channels} numbers in [0, 1]")
    return colour.reshape(-1, 1, 1).expand(channels, 1, 1)
