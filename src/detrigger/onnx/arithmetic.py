"""ONNX operators that work value by value, or sum values up.

Like all operators here they take what the node takes, its attributes as keywords, and give a tensor. All
floating types are computed as float32, all integers as int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from detrigger.errors import ModelError

_FLOATS, _INTEGERS, _BOOLEAN = {1, 10, 11, 16}, {2, 3, 4, 5, 6, 7, 12, 13}, 9
"""Codes of types in ONNX files."""


def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    del saturate, round_mode  # of types with 8 bits and fewer
    if to in _FLOATS:
        return x.float()
    if to in _INTEGERS:
        return x.long()
    if to == _BOOLEAN:
        return x.bool()
    raise ModelError(f"a Cast to ONNX type {to} is not supported; export the model with float32 weights")


def clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    low = low if min is None else torch.tensor(min)
    high = high if max is None else torch.tensor(max)
    return x if low is None and high is None else x.clamp(low, high)


def divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def total(*terms: Tensor) -> Tensor:
    return reduce(torch.add, terms)


def average(*terms: Tensor) -> Tensor:
    return total(*terms) / len(terms)


def largest(*terms: Tensor) -> Tensor:
    return reduce(torch.maximum, terms)


def smallest(*terms: Tensor) -> Tensor:
    return reduce(torch.minimum, terms)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return x.clamp_min(0) + slope * x.clamp_max(0)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.celu(x, alpha)


def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * functional.elu(x, alpha)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Tensor]:
    """An operator from (values, axes, keep the axes) -> values; axes come as an input or as an attribute."""

    def run(
        x: Tensor,
        given: Tensor | None = None,
        /,
        *,
        axes: Sequence[int] = (),
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        chosen = tuple(axes) if given is None else tuple(given.tolist())
        if not chosen and noop_with_empty_axes:
            return x
        return function(x, chosen or tuple(range(x.ndim)), bool(keepdims))

    return run


def product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def cumulative(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = int(axis)
    turned = x.flip(dim) if reverse else x
    result = turned.cumsum(dim) - (turned if exclusive else 0)
    return result.flip(dim) if reverse else result
