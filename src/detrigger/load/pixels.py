"""Images to one size and number of channels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from detrigger.errors import DataError, UsageError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, after ITU-R BT.601."""
_LONGEST = 50
"""Longest side over shortest: a thin strip would grow to an enormous image."""


def check_options(size: int | None, channels: int | None, interpolation: str) -> None:
    """Raises UsageError for options that do not exist."""
    if size is not None and size < 1:
        raise UsageError(f"--size {size} is not a number of pixels; give 1 or more")
    if channels not in (None, 1, 3):
        raise UsageError(f"--channels {channels} is neither 1 (grey) nor 3 (RGB)")
    if interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"unknown interpolation {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}"
        )


def resized(
    x: Float[Tensor, "n c h w"], size: int | None, interpolation: str, kept: float = 1.0
) -> Float[Tensor, "n c new_h new_w"]:
    """The central square of a share `kept` of the shorter side, as `size` pixels, in [0, 1].

    Unchanged without a size, or if the image is such a square.
    """
    height, width = x.shape[2:]
    if size is None or (height, width) == (size, size):
        return x
    if max(height, width) > _LONGEST * min(height, width):
        raise DataError(f"an image is {width}×{height} pixels, too long to be cut to a square; leave it out")
    scale = size / (kept * min(height, width))
    new = [max(size, round(side * scale)) for side in (height, width)]
    smooth = interpolation != "nearest"
    x = functional.interpolate(
        x, new, mode=interpolation, antialias=smooth, align_corners=False if smooth else None
    )
    top, left = ((side - size) // 2 for side in new)
    return x[:, :, top : top + size, left : left + size].clamp(0, 1)


def with_channels(x: Float[Tensor, "n c h w"], channels: int | None) -> Float[Tensor, "n new_c h w"]:
    """Grey repeated to RGB, or RGB to its luma; unchanged for None."""
    if channels is None or x.shape[1] == channels:
        return x
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    return (x * x.new_tensor(_LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True).clamp(0, 1)


def stacked(images: list[Float[Tensor, "1 _c h w"]]) -> Float[Tensor, "n channels h w"]:
    """All in one, as grey if all are grey."""
    channels = max(image.shape[1] for image in images)
    return torch.cat([with_channels(image, channels) for image in images])
