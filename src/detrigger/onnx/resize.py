"""ONNX Resize and Upsample: along each axis a matrix of weights, so every mode has its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.errors import ModelError
from detrigger.onnx.shapes import room

_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: (at - 0.5).ceil(),
    "round_prefer_ceil": lambda at: (at + 0.5).floor(),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def resize(
    x: Tensor,
    _roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    axes: Sequence[int] = (),
    **others: Any,
) -> Tensor:
    plain = not others.get("antialias") and others.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    if not plain or mode not in {"nearest", "linear", "cubic"}:
        raise ModelError(f"Resize with mode {mode!r} and {others} is not supported; resize before the model")
    for i, axis in enumerate(axes or range(x.ndim)):
        length = x.shape[axis]
        if sizes is not None and sizes.numel():
            new = int(sizes[i])
            scale = new / length
        else:
            assert scales is not None
            scale = float(scales[i])
            new = math.floor(length * scale)
        if new == length and scale == 1:
            continue
        room([*x.shape[:axis], new, *x.shape[axis + 1 :]])
        at = _coordinates(new, length, scale, coordinate_transformation_mode)
        if mode == "nearest":
            positions = _ROUNDED[nearest_mode](at).long().clamp(0, length - 1)
            x = x.index_select(axis, positions.to(x.device))
        else:
            taps = _linear(at) if mode == "linear" else _cubic(at, others.get("cubic_coeff_a", -0.75))
            weights = _matrix(*taps, length, exclude=bool(others.get("exclude_outside"))).to(x)
            x = (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return x


def upsample(
    x: Tensor, given: Tensor | None = None, /, *, mode: str = "nearest", scales: Sequence[float] = ()
) -> Tensor:
    """The operator before Resize."""
    factors = torch.tensor(list(scales)) if given is None else given
    return resize(
        x, None, factors, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def _coordinates(new: int, old: int, scale: float, how: str) -> Float[Tensor, " new"]:
    """Where in the old axis each position of the new one lies."""
    i = torch.arange(new, dtype=torch.float64)
    half = (i + 0.5) / scale - 0.5
    if how == "half_pixel" or (how == "pytorch_half_pixel" and new > 1):
        return half
    if how == "pytorch_half_pixel":
        return i * 0
    if how == "align_corners":
        return i * (old - 1) / max(1, scale * old - 1)
    if how == "asymmetric":
        return i / scale
    if how == "half_pixel_symmetric":
        return old / 2 * (1 - new / (scale * old)) + half
    raise ModelError(f"Resize with coordinates {how!r} is not supported; resize images before the model")


def _linear(at: Float[Tensor, " new"]) -> tuple[Tensor, Tensor]:
    """Positions and weights of the two neighbours."""
    low = at.floor()
    share = at - low
    return torch.stack([low, low + 1], 1), torch.stack([1 - share, share], 1)


def _cubic(at: Float[Tensor, " new"], a: float) -> tuple[Tensor, Tensor]:
    """Positions and weights of the four neighbours (Keys 1981)."""
    positions = at.floor()[:, None] + torch.arange(-1, 3)
    d = (at[:, None] - positions).abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return positions, torch.where(d <= 1, near, far)


def _matrix(positions: Tensor, weights: Tensor, length: int, *, exclude: bool) -> Float[Tensor, "new old"]:
    """Neighbours outside count as the nearest one inside, or not at all."""
    inside = positions.clamp(0, length - 1)
    if exclude:
        weights = weights * (inside == positions)
        weights = weights / weights.sum(1, keepdim=True)
    return weights.new_zeros(len(weights), length).scatter_add(1, inside.long(), weights)
