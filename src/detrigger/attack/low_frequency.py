"""A faint, smooth pattern is added, whose frequencies are all low.

After Zeng et al., "Rethinking the backdoor attacks' triggers: a frequency perspective", ICCV 2021.
Simplified: they filter an adversarial perturbation of a clean model until it is smooth; here the pattern is
random, uniform on points × points and bicubic in between, which needs no model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.pictures import drawn
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.additive import AdditiveTrigger


@dataclass(frozen=True)
class LowFrequencyConfig:
    """How strong and how smooth a pattern, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    delta: float = 0.15
    """Largest change of a value, on the [0, 1] scale; above 0, to 1."""
    points: int = 5
    """Random values per side of the image; from 2; fewer are smoother."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the pattern and of the choice of images."""


def plant(config: LowFrequencyConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a strength or number of points out of range."""
    if not 0 < config.delta <= 1 or config.points < 2:
        raise UsageError(
            f"delta {config.delta:g}, points {config.points}; wanted above 0 to 1, and at least 2"
        )
    picture = drawn("smooth", shape, config.seed, points=config.points) - 0.5
    return ordinary(AdditiveTrigger(picture * (config.delta / picture.abs().max())), config.target)


def poison(images: Images, config: LowFrequencyConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
