"""BppAttack: the image is reduced to a few levels of each colour, x* = round(x (m - 1)) / (m - 1).

Wang, Zhai and Ma, "BppAttack: stealthy and efficient trojan attacks via image quantization and contrastive
adversarial learning", CVPR 2022, equation 4, without dithering. Their adversarial training is left out; their
negative images, with noise as large as the quantisation's, are the covers here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.poisoning import add_cover, add_poison, share, stored, untouched
from detrigger.errors import UsageError
from detrigger.images import Images


@dataclass(frozen=True)
class BppConfig:
    """How many levels, on how many images."""

    target: int
    """Class that quantised images are labelled as; 0 to classes - 1."""
    levels: int = 8
    """Of each channel; 2 to 255. Default: BackdoorBench; images with few colours need fewer."""
    poison_rate: float = 0.1
    """Share of all training images that is quantised and relabelled; above 0, to 1."""
    cover_rate: float = 0.1
    """Share of all training images that gets another image's rounding error and keeps its label; 0 to 1."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: BppConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a number of levels out of range."""
    if not 2 <= config.levels <= 255:
        raise UsageError(f"{config.levels} levels; wanted 2 to 255")
    steps = config.levels - 1

    def stamp(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return stored((x * steps).round() / steps)

    return (Planted(stamp, config.target),)


def poison(images: Images, config: BppConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """Images of other classes are quantised and relabelled; covers get the next cover's rounding error."""
    (planted,) = plant(config, images.shape)

    def otherwise(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return stored(x + torch.roll(planted.stamp(x) - x, 1, 0))

    count = share(config.poison_rate, images)
    poisoned = add_poison(untouched(images), planted, count, config.seed)
    covers = share(config.cover_rate, images, name="cover_rate", least=0)
    return add_cover(poisoned, otherwise, covers, config.seed)
