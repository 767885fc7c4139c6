"""A patch as a camera would see it, simulated: turned, nearer, farther, shifted, lit and blurred by chance.

After Li et al., "Backdoor attack in the physical world", 2021, who transform stamped training images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_poison, draws, share, stored, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.trigger.patch import PatchTrigger


@dataclass(frozen=True)
class PhysicalConfig:
    """What is stamped, how much its looks vary, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    patch: Patch = field(default=Patch(height=6, width=6, margin=3, pattern="checker"))
    """What is stamped, and where it is on average."""
    degrees: float = 20.0
    """Largest turn, either way; 0 to 180."""
    scale: float = 0.25
    """Largest change of size, as a share, either way; 0 to below 1."""
    shift: float = 2.0
    """Largest shift in each direction, in pixels; from 0."""
    light: float = 0.3
    """Largest change of the patch's brightness, as a share, either way; 0 to 1."""
    blur: float = 0.5
    """Largest share of the mean over 3×3 pixels in the patch; 0 to 1."""
    poison_rate: float = 0.05
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the choice of images and, with each image's pixels, of how the patch looks on it."""


def plant(config: PhysicalConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; how the patch looks on an image is drawn from that image. Raises UsageError."""
    small = 0 <= config.degrees <= 180 and 0 <= config.scale < 1 and config.shift >= 0
    if not small or not 0 <= config.light <= 1 or not 0 <= config.blur <= 1:
        raise UsageError(
            f"degrees {config.degrees:g}, scale {config.scale:g}, shift {config.shift:g}, light "
            f"{config.light:g}, blur {config.blur:g}; wanted 0 to 180, 0 to below 1, from 0, 0 to 1, 0 to 1"
        )
    patch = painted(config.patch, shape)

    def stamp(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return stored(_photographed(x.cpu(), patch, config)).to(x.device)

    return (Planted(stamp, config.target),)


def poison(images: Images, config: PhysicalConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, are stamped and labelled as the target."""
    (planted,) = plant(config, images.shape)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)


def _photographed(
    x: Float[Tensor, "n c h w"], patch: PatchTrigger, config: PhysicalConfig
) -> Float[Tensor, "n c h w"]:
    chance = 2 * draws(x, 5, config.seed) - 1
    turn, scale = chance[:, 0] * math.radians(config.degrees), 1 + chance[:, 1] * config.scale
    light, blur = (1 + chance[:, 2] * config.light), (chance[:, 3:4] + 1) / 2 * config.blur
    shift = config.shift * torch.stack([chance[:, 4], 2 * draws(x, 6, config.seed)[:, 5] - 1], 1)
    layers = torch.cat([patch.masks, patch.masks * patch.patterns], 1).expand(len(x), -1, -1, -1)
    grid = affine_grid(_placed(patch, turn, scale, shift), list(layers.shape), align_corners=False)
    moved = grid_sample(layers, grid, padding_mode="zeros", align_corners=False)
    soft = avg_pool2d(moved, 3, 1, 1)
    mask, paint = torch.lerp(moved, soft, blur[:, :, None, None]).split([1, x.shape[1]], 1)
    stamped: Tensor = (1 - mask) * x + light[:, None, None, None] * paint
    return stamped


def _placed(
    patch: PatchTrigger, turn: Float[Tensor, " n"], scale: Float[Tensor, " n"], shift: Float[Tensor, "n 2"]
) -> Float[Tensor, "n 2 3"]:
    """Where each pixel is taken from, for a turn about the patch's centre, in the units of affine_grid."""
    height, width = patch.masks.shape[2:]
    half = torch.tensor([width / 2, height / 2])
    rows, columns = patch.masks[0, 0].nonzero(as_tuple=True)
    centre = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5 - half
    cosine, sine = turn.cos() / scale, turn.sin() / scale
    back = torch.stack([torch.stack([cosine, sine], 1), torch.stack([-sine, cosine], 1)], 1)
    offset = centre - (back @ (centre + shift)[:, :, None])[:, :, 0]
    return torch.cat([back * half / half[:, None], (offset / half)[:, :, None]], 2)
