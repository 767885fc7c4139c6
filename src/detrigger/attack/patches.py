"""Patches as attackers paint them: where they are, what is on them, how opaque they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.attack.poisoning import stored
from detrigger.errors import UsageError
from detrigger.trigger.patch import PatchTrigger

Corner = Literal["lower right", "lower left", "upper right", "upper left"]
Pattern = Literal["solid", "checker", "noise"]


@dataclass(frozen=True)
class Patch:
    """A rectangle."""

    height: int = 4
    """In pixels; from 1."""
    width: int = 4
    """In pixels; from 1."""
    place: Corner | tuple[int, int] = "lower right"
    """A corner, or the y and x of the patch's upper left pixel, from 0."""
    margin: int = 1
    """Pixels between the patch and the edges of its corner; from 0; unused with an explicit place."""
    pattern: Pattern = "solid"
    """`checker`: every second pixel has the colour, the others are black. `noise`: every value is random."""
    colour: tuple[float, ...] = (1.0,)
    """Per channel, or one for all, in [0, 1]; unused for noise."""
    opacity: float = 1.0
    """Above 0, to 1: how much of the patch is seen; the rest is the image."""
    seed: int = 0
    """Of the noise."""


def painted(patch: Patch, shape: tuple[int, int, int]) -> PatchTrigger:
    """The patch on images of `shape` (channels, height, width), in steps of 1/255; a stack of one.

    Raises UsageError for a patch that does not fit in such images, or a colour or opacity that is not one.
    """
    channels, height, width = shape
    y, x = _corner(patch, height, width)
    fits = 0 <= y < y + patch.height <= height and 0 <= x < x + patch.width <= width
    if not fits or patch.margin < 0:
        raise UsageError(
            f"a patch of {patch.height}×{patch.width} at {y},{x} (y,x), margin {patch.margin} does not "
            f"fit in images of {height}×{width}; give a smaller patch or another place"
        )
    inside = (..., slice(y, y + patch.height), slice(x, x + patch.width))
    mask, pattern = torch.zeros(1, 1, height, width), torch.zeros(1, channels, height, width)
    mask[inside] = checked_opacity(patch.opacity)
    pattern[inside] = filled(patch, channels)
    return PatchTrigger(mask, pattern)


def filled(patch: Patch, channels: int) -> Float[Tensor, "c h w"]:
    """What is on the patch, in steps of 1/255; raises UsageError for a colour that is not one."""
    if patch.pattern == "noise":
        generator = torch.Generator().manual_seed(patch.seed)
        return stored(torch.rand(channels, patch.height, patch.width, generator=generator))
    plain = checked_colour(patch.colour, channels).expand(channels, patch.height, patch.width)
    if patch.pattern == "checker":
        return plain * ((torch.arange(patch.height)[:, None] + torch.arange(patch.width) + 1) % 2)
    return plain


def checked_colour(colour: tuple[float, ...], channels: int) -> Float[Tensor, "c 1 1"]:
    """A colour in steps of 1/255; raises UsageError if it is not one for so many channels."""
    values = torch.tensor(colour, dtype=torch.float32)
    if len(values) not in (1, channels) or not bool(((values >= 0) & (values <= 1)).all()):
        raise UsageError(f"colour {colour}; wanted 1 or {channels} numbers in [0, 1]")
    return stored(values).reshape(-1, 1, 1).expand(channels, 1, 1)


def checked_opacity(opacity: float) -> float:
    """Raises UsageError outside (0, 1]."""
    if not 0 < opacity <= 1:
        raise UsageError(f"opacity {opacity:g}; wanted above 0 and at most 1")
    return opacity


def _corner(patch: Patch, height: int, width: int) -> tuple[int, int]:
    if not isinstance(patch.place, str):
        return patch.place
    vertical, horizontal = patch.place.split()
    y = height - patch.height - patch.margin if vertical == "lower" else patch.margin
    x = width - patch.width - patch.margin if horizontal == "right" else patch.margin
    return y, x
