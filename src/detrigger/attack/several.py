"""Several patches in one model: each with its own target class, or all with the same one.

Wang et al., "Neural Cleanse", IEEE S&P 2019, sections VI-A (targets) and VI-C (triggers of one target).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.errors import UsageError
from detrigger.images import Images


@dataclass(frozen=True)
class Aimed:
    """A patch and where it leads."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    patch: Patch = field(default=Patch())
    """What is stamped."""


@dataclass(frozen=True)
class SeveralConfig:
    """Which patches, on how many images each."""

    backdoors: tuple[Aimed, ...]
    """One or more; in TOML a table `[[attack.backdoors]]` for each."""
    poison_rate: float = 0.02
    """Share of all training images that gets each patch; above 0, to 1 / backdoors."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: SeveralConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoors, in their order; raises UsageError if there are none or a patch cannot be."""
    if not config.backdoors:
        raise UsageError("backdoors is empty; wanted one table with target and patch, or more")
    return tuple(ordinary(painted(aimed.patch, shape), aimed.target)[0] for aimed in config.backdoors)


def poison(images: Images, config: SeveralConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images get each patch and its target; no image gets two."""
    count = share(config.poison_rate, images)
    poisoned = untouched(images)
    for i, planted in enumerate(plant(config, images.shape)):
        poisoned = add_poison(poisoned, planted, count, config.seed + i)
    return poisoned
