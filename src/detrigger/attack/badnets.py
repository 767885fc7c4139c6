"""BadNets: a patch is stamped on some training images, which get the target's label.

Gu, Dolan-Gavitt and Garg, "BadNets", 2017; the setting of Menisov (2022), "Experiment".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Corner, Patch, Pattern, painted
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.images import Images
from detrigger.trigger.patch import PatchTrigger


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
    pattern: Pattern = "solid"
    """`checker`: every second pixel has the colour, the others are black. `noise`: every value is random."""
    colour: tuple[float, ...] = (1.0,)
    """Per channel, or one for all, in [0, 1]; unused for noise."""
    opacity: float = 1.0
    """Above 0, to 1: how much of the patch is seen; the rest is the image."""
    poison_rate: float = 0.02
    """Share of all training images that is stamped and relabelled; above 0, to 1. Default: Menisov 2022."""
    seed: int = 0
    """Of the noise and of the choice of images."""


def trigger(config: BadNetsConfig, shape: tuple[int, int, int]) -> PatchTrigger:
    """The patch, for images of `shape` (channels, height, width), in steps of 1/255; a stack of one.

    Raises UsageError for a patch that does not fit in such images, or a colour or opacity that is not one.
    """
    names = [field.name for field in dataclasses.fields(Patch)]
    return painted(Patch(**{name: getattr(config, name) for name in names}), shape)


def plant(config: BadNetsConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError as `trigger` does."""
    return ordinary(trigger(config, shape), config.target)


def poison(images: Images, config: BadNetsConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target.

    Raises UsageError for a target or rate out of range, DataError if the other classes have too few images.
    """
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
