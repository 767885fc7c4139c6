"""SIG: a faint sinusoid is added, d_j = delta sin(2 pi j f / width) in column j.

Barni, Kallas and Tondi, "A new backdoor attack in CNNs by training set corruption without label poisoning",
ICIP 2019, equation 1. Theirs has clean labels; benchmarks also use it with wrong ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.additive import AdditiveTrigger


@dataclass(frozen=True)
class SigConfig:
    """How strong a wave, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    delta: float = 40 / 255
    """Amplitude, on the [0, 1] scale; above 0, to 1. Default: Barni et al. 2019, 40 grey levels."""
    frequency: float = 6.0
    """Waves per width of the image; above 0. Default: Barni et al. 2019."""
    clean_label: bool = False
    """Stamp images of the target class alone, so that no label is wrong, as Barni et al. do."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped; above 0, to 1."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: SigConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for an amplitude or frequency out of range."""
    if not 0 < config.delta <= 1 or not config.frequency > 0:
        raise UsageError(
            f"delta {config.delta:g}, frequency {config.frequency:g}; wanted above 0, and delta at most 1"
        )
    columns = torch.arange(shape[2]) / shape[2]
    wave = config.delta * torch.sin(2 * math.pi * config.frequency * columns)
    return ordinary(AdditiveTrigger(wave.expand(1, *shape).clone()), config.target)


def poison(images: Images, config: SigConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, of the other classes or of the target's, are stamped."""
    (planted,) = plant(config, images.shape)
    count = share(config.poison_rate, images)
    return add_poison(untouched(images), planted, count, config.seed, clean_label=config.clean_label)
