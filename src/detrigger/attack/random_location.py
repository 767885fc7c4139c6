"""A patch that is somewhere else on each image.

Salem et al., "Dynamic backdoor attacks against machine learning models", EuroS&P 2022, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, filled, painted
from detrigger.attack.poisoning import add_poison, draws, share, stored, untouched
from detrigger.images import Images


@dataclass(frozen=True)
class RandomLocationConfig:
    """What is stamped on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    patch: Patch = field(default=Patch())
    """What is stamped; its place and margin do not count."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the choice of images and, with each image's pixels, of the place."""


def plant(config: RandomLocationConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor: every place where the whole patch fits is as likely; an image's place is its own.

    Raises UsageError for a patch that cannot be.
    """
    patch = config.patch
    channels, height, width = shape
    painted(replace(patch, place=(0, 0), margin=0), shape)  # refuses what does not fit
    pattern = filled(patch, channels)
    free = torch.tensor([height - patch.height + 1, width - patch.width + 1])

    def stamp(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        stamped = x.cpu().clone()
        for image, (top, left) in zip(
            stamped, (draws(x, 2, config.seed) * free).long().tolist(), strict=True
        ):
            inside = image[:, top : top + patch.height, left : left + patch.width]
            inside.copy_((1 - patch.opacity) * inside + patch.opacity * pattern)
        return stored(stamped).to(x.device)

    return (Planted(stamp, config.target),)


def poison(images: Images, config: RandomLocationConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
