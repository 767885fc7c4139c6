"""Random pictures that cover a whole image: noise, or smooth."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

Kind = Literal["noise", "smooth"]


def drawn(kind: Kind, shape: tuple[int, int, int], seed: int, *, points: int = 5) -> Float[Tensor, "1 c h w"]:
    """A picture in [0, 1] of `shape` (channels, height, width).

    `noise`: every value uniform. `smooth`: uniform on points × points, bicubic in between.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    if kind == "noise":
        return torch.rand(1, *shape, generator=generator)
    coarse = torch.rand(1, channels, points, points, generator=generator)
    return interpolate(coarse, (height, width), mode="bicubic", align_corners=True).clamp(0, 1)
