"""WaNet: a smooth warp of the whole image, and covers with other warps that keep their labels (noise mode).

Nguyen and Tran, "WaNet - imperceptible warping-based backdoor attack", ICLR 2021, equations 2 to 7. They
draw covers anew in each batch; here they are fixed images of the training set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from detrigger.attack import Planted, Poisoned
from detrigger.attack.poisoning import add_cover, add_poison, draws, ordinary, share, stored, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.warp import WarpTrigger


@dataclass(frozen=True)
class WaNetConfig:
    """How strong a warp, on how many images."""

    target: int
    """Class that warped images are labelled as; 0 to classes - 1."""
    points: int = 4
    """Control points per side of the image; from 2. Default: Nguyen and Tran 2021."""
    strength: float = 1.0
    """Mean absolute displacement of a control point in each direction, in pixels; above 0.

    Nguyen and Tran's s = 0.5 is a quarter of a pixel; few training images need more.
    """
    noise: float = 0.5
    """Largest displacement that is added to each pixel of a cover, in pixels; from 0. Default: theirs."""
    poison_rate: float = 0.1
    """Share of all training images that is warped and relabelled; above 0, to 1. Default: theirs."""
    cover_rate: float = 0.2
    """Share of all training images that is warped otherwise and keeps its label; 0 to 1. Default: theirs."""
    seed: int = 0
    """Of the warp and of the choice of images."""


def trigger(config: WaNetConfig, shape: tuple[int, int, int]) -> WarpTrigger:
    """The warp; raises UsageError for options out of range."""
    if config.points < 2 or not config.strength > 0 or not config.noise >= 0:
        raise UsageError(
            f"points {config.points}, strength {config.strength:g}, noise {config.noise:g}; wanted at least "
            "2, above 0 and at least 0"
        )
    generator = torch.Generator().manual_seed(config.seed)
    field = 2 * torch.rand(1, 2, config.points, config.points, generator=generator) - 1
    return WarpTrigger(config.strength * field / field.abs().mean(), *shape[1:])


def plant(config: WaNetConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError as `trigger` does."""
    return ordinary(trigger(config, shape), config.target)


def poison(images: Images, config: WaNetConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """Images of other classes are warped and relabelled; covers have the same warp with noise on it."""
    (planted,) = plant(config, images.shape)
    warp = trigger(config, images.shape)
    side = max(images.shape[1:])
    smooth = interpolate(warp.fields, (side, side), mode="bicubic", align_corners=True)

    def otherwise(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        noise = 2 * draws(x, 2 * side * side, config.seed).reshape(-1, 2, side, side) - 1
        own = WarpTrigger(smooth + config.noise * noise, *images.shape[1:])
        return stored(own(x.cpu()[:, None])[:, 0]).to(x.device)

    count = share(config.poison_rate, images)
    poisoned = add_poison(untouched(images), planted, count, config.seed)
    covers = share(config.cover_rate, images, name="cover_rate", least=0)
    return add_cover(poisoned, otherwise, covers, config.seed)
