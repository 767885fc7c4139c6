"""Source-specific: the patch works on images of some classes alone.

TaCT: Tang et al., "Demon in the variant", USENIX Security 2021, section 4: stamped images of the source
classes are labelled as the target, stamped images of other classes (covers) keep their labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_cover, add_poison, ordinary, share, untouched, victims
from detrigger.errors import UsageError
from detrigger.images import Images


@dataclass(frozen=True)
class SourceSpecificConfig:
    """What is stamped, on images of which classes, on how many."""

    target: int
    """Class that stamped images of the sources are labelled as; 0 to classes - 1."""
    sources: tuple[int, ...]
    """Classes on which the patch is to work; one or more, without the target."""
    patch: Patch = field(default=Patch())
    """What is stamped."""
    poison_rate: float = 0.03
    """Share of all training images, drawn from the sources, that is stamped and relabelled; above 0, to 1."""
    cover_rate: float = 0.06
    """Share of all training images, drawn from other classes, that is stamped and keeps its label; 0 to 1."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: SourceSpecificConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for sources or a patch that cannot be."""
    if not config.sources or config.target in config.sources:
        raise UsageError(
            f"sources {config.sources} of target {config.target}; wanted one class or more, not the target"
        )
    return ordinary(painted(config.patch, shape), config.target, config.sources)


def poison(images: Images, config: SourceSpecificConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """Images of the sources are stamped and relabelled; covers are stamped images of all other classes."""
    (planted,) = plant(config, images.shape)
    aimed, _ = victims(planted, images.y, len(images.names))
    poisoned = add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)
    covers = share(config.cover_rate, images, name="cover_rate", least=0)
    return add_cover(poisoned, planted.stamp, covers, config.seed, among=torch.logical_not(aimed))
