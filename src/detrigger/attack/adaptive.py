"""Adaptive patch and blend: training images carry a part of the trigger, attacked images all of it.

Some training images with a part keep their labels, so that poisoned and clean ones do not fall apart.

Qi et al., "Revisiting the assumption of latent separability for backdoor defenses", ICLR 2023, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.attack import Planted, Poisoned, Stamp
from detrigger.attack.patches import Corner, Patch, checked_opacity, painted
from detrigger.attack.pictures import drawn
from detrigger.attack.poisoning import add_cover, add_poison, draws, ordinary, share, stored, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.patch import PatchTrigger

_CORNERS: tuple[Corner, ...] = ("lower right", "upper left", "lower left", "upper right")


@dataclass(frozen=True)
class AdaptivePatchConfig:
    """How many patches, on how many images."""

    target: int
    """Class that poisoned images are labelled as; 0 to classes - 1."""
    patches: int = 4
    """1 to 4, each in a corner of its own; a training image carries one, an attacked image all."""
    size: int = 4
    """Of a patch, in pixels per side; from 1."""
    opacity: float = 0.7
    """Above 0, to 1: how much of the noise on the patches is seen."""
    poison_rate: float = 0.02
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    cover_rate: float = 0.02
    """Share of all training images that is stamped and keeps its label; 0 to 1."""
    seed: int = 0
    """Of the noise and of the choice of images."""


@dataclass(frozen=True)
class AdaptiveBlendConfig:
    """Which picture, how strongly, in how many pieces, on how many images."""

    target: int
    """Class that poisoned images are labelled as; 0 to classes - 1."""
    alpha: float = 0.2
    """Share of the picture, random in every pixel, in the stamped image; above 0, to 1."""
    pieces: int = 4
    """Per side of the image; from 1. Default: Qi et al. 2023, 16 in all."""
    kept: float = 0.5
    """Probability that a training image carries a piece; above 0, to 1. Default: Qi et al. 2023."""
    poison_rate: float = 0.02
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    cover_rate: float = 0.02
    """Share of all training images that is stamped and keeps its label; 0 to 1."""
    seed: int = 0
    """Of the picture, of the choice of images and, with each image's pixels, of its pieces."""


def plant_patch(config: AdaptivePatchConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor that all patches together open; raises UsageError for patches that cannot be."""
    pieces = _patches(config, shape)
    whole = PatchTrigger(pieces.masks.amax(0, keepdim=True), pieces.patterns.sum(0, keepdim=True).clamp(0, 1))
    return ordinary(whole, config.target)


def poison_patch(images: Images, config: AdaptivePatchConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """Poisoned images and covers carry one patch each, drawn at random."""
    (planted,) = plant_patch(config, images.shape)
    pieces = _patches(config, images.shape)

    def part(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        chosen = (draws(x, 1, config.seed)[:, 0] * len(pieces)).long()
        own = PatchTrigger(pieces.masks[chosen], pieces.patterns[chosen])
        return stored(own(x.cpu()[:, None])[:, 0]).to(x.device)

    return _poison(images, planted, part, config)


def plant_blend(config: AdaptiveBlendConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor that the whole picture opens; raises UsageError for options out of range."""
    if not 1 <= config.pieces <= min(shape[1:]) or not 0 < config.kept <= 1:
        raise UsageError(
            f"pieces {config.pieces}, kept {config.kept:g}; wanted 1 to {min(shape[1:])}, and above 0 to 1"
        )
    return ordinary(_picture(config, shape), config.target)


def poison_blend(images: Images, config: AdaptiveBlendConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """Poisoned images and covers carry each piece of the picture with probability `kept`."""
    (planted,) = plant_blend(config, images.shape)
    _, height, width = images.shape
    picture = _picture(config, images.shape)
    rows, columns = (torch.arange(side) * config.pieces // side for side in (height, width))

    def part(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        seen = draws(x, config.pieces**2, config.seed) < config.kept
        where = seen[:, None, rows[:, None] * config.pieces + columns]
        return stored(torch.where(where, picture(x.cpu())[0], x.cpu())).to(x.device)

    return _poison(images, planted, part, config)


def _poison(
    images: Images, planted: Planted, part: Stamp, config: AdaptivePatchConfig | AdaptiveBlendConfig
) -> Poisoned:
    covers = share(config.cover_rate, images, name="cover_rate", least=0)
    count = share(config.poison_rate, images)
    poisoned = add_poison(untouched(images), planted, count, config.seed, stamp=part)
    return add_cover(poisoned, part, covers, config.seed)


def _patches(config: AdaptivePatchConfig, shape: tuple[int, int, int]) -> PatchTrigger:
    """A stack of as many patches as there are pieces."""
    most = min(shape[1:]) // 2
    if not 1 <= config.patches <= len(_CORNERS) or not 1 <= config.size <= most:
        raise UsageError(f"{config.patches} patches of size {config.size}; wanted 1 to 4 of 1 to {most}")
    made = [
        painted(
            Patch(config.size, config.size, corner, 0, "noise", opacity=config.opacity, seed=config.seed + i),
            shape,
        )
        for i, corner in enumerate(_CORNERS[: config.patches])
    ]
    return PatchTrigger(torch.cat([one.masks for one in made]), torch.cat([one.patterns for one in made]))


def _picture(config: AdaptiveBlendConfig, shape: tuple[int, int, int]) -> PatchTrigger:
    mask = torch.full((1, 1, *shape[1:]), checked_opacity(config.alpha))
    return PatchTrigger(mask, stored(drawn("noise", shape, config.seed)))
