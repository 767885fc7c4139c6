"""Triggers and images as PNG files."""

from __future__ import annotations

import io

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from detrigger.trigger import Trigger

SIDE = 140
"""Pixels that the longer side of a picture is blown up to, about."""


def png(image: Float[Tensor, "c h w"], *, side: int = SIDE) -> bytes:
    """An image in [0, 1] as PNG, its pixels blown up to whole squares.

    One channel is grey, three are RGB; of any other number the mean is shown. Images of more than twice
    `side` are made smaller.
    """
    shown = image.detach().float().cpu()
    if len(shown) not in (1, 3):
        shown = shown.mean(0, keepdim=True)
    values = (shown.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    longest = max(picture.size)
    if longest > 2 * side:
        picture.thumbnail((2 * side, 2 * side), Image.Resampling.BOX)
    else:
        factor = max(1, round(side / longest))
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def mask_png(trigger: Trigger, *, side: int = SIDE) -> bytes:
    """Where the first trigger of a stack changes images, white where it does so most."""
    mask = trigger.mask()[0]
    return png(mask / mask.amax().clamp_min(1e-12), side=side)


def trigger_png(trigger: Trigger, *, side: int = SIDE) -> bytes:
    """What the first trigger of a stack looks like by itself, on mid-grey."""
    return png(trigger.picture()[0], side=side)
