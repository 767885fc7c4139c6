"""ONNX operators that move, repeat and select values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from detrigger.errors import ModelError

_MOST = 2**29
"""Values of one tensor; a few bytes of a file could ask for any number."""


def room(sizes: Sequence[int]) -> list[int]:
    """These sizes; raises ModelError if a tensor of them would not be reasonable."""
    if math.prod(sizes) > _MOST or any(size < 0 for size in sizes):
        shown = "×".join(map(str, sizes))
        raise ModelError(f"the graph asks for a tensor of {shown} values, at most {_MOST} are allowed")
    return list(sizes)


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(tuple(x.shape)[slice(start, end)], dtype=torch.int64)


def size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


def reshape(
    x: Tensor, sizes: Tensor | None = None, /, *, allowzero: int = 0, shape: Sequence[int] = ()
) -> Tensor:
    wanted = list(shape) if sizes is None else sizes.tolist()
    return x.reshape(wanted if allowzero else [x.shape[i] if s == 0 else s for i, s in enumerate(wanted)])


def reshape_whole_batches(x: Tensor, sizes: Tensor, *, values: int, allowzero: int = 0) -> Tensor:
    """`reshape` in a graph made for one size of batch: x has a multiple of the `values` it was made for."""
    first, *others = sizes.tolist()
    grown = first * (x.numel() // values) if first > 0 else first
    return reshape(x, torch.tensor([grown, *others]), allowzero=allowzero)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % x.ndim if axis < 0 else axis
    return (
        x.reshape(math.prod(x.shape[:axis]), -1) if x.numel() else x.new_empty(math.prod(x.shape[:axis]), 0)
    )


def transpose(x: Tensor, *, perm: Sequence[int] = ()) -> Tensor:
    return x.permute(tuple(perm) or tuple(reversed(range(x.ndim))))


def squeeze(x: Tensor, given: Tensor | None = None, /, *, axes: Sequence[int] = ()) -> Tensor:
    chosen = tuple(axes) if given is None else tuple(given.tolist())
    return x.squeeze(chosen) if chosen else x.squeeze()


def unsqueeze(x: Tensor, given: Tensor | None = None, /, *, axes: Sequence[int] = ()) -> Tensor:
    chosen = list(axes) if given is None else given.tolist()
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def concat(*parts: Tensor, axis: int) -> Tensor:
    """Parts with one entry along the batch fit any batch, which graphs made for a batch of one need."""
    longest = max(len(part) for part in parts) if parts[0].ndim else 0
    if axis % max(1, parts[0].ndim):
        parts = tuple(p.expand(longest, *p.shape[1:]) if len(p) == 1 else p for p in parts)
    return torch.cat(parts, axis)


def split(
    x: Tensor,
    given: Tensor | None = None,
    /,
    *,
    axis: int = 0,
    split: Sequence[int] = (),
    num_outputs: int = 1,
) -> tuple[Tensor, ...]:
    sizes = list(split) if given is None else given.tolist()
    return tuple(x.split(sizes or -(-x.shape[axis] // num_outputs), axis))


def cut(
    x: Tensor,
    first: Tensor | None = None,
    last: Tensor | None = None,
    along: Tensor | None = None,
    every: Tensor | None = None,
    /,
    *,
    starts: Sequence[int] = (),
    ends: Sequence[int] = (),
    axes: Sequence[int] = (),
) -> Tensor:
    """Slice."""
    begin, end = (list(a) if t is None else t.tolist() for a, t in ((starts, first), (ends, last)))
    where = list(axes) if along is None else along.tolist()
    steps = [1] * len(begin) if every is None else every.tolist()
    for axis, start, stop, step in zip(where or range(len(begin)), begin, end, steps, strict=True):
        positions = range(x.shape[axis])[slice(start, _end(stop, step, x.shape[axis]), step)]
        if step == 1:
            x = x.narrow(axis, positions.start if positions else 0, len(positions))
        else:
            x = x.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=x.device))
    return x


def _end(stop: int, step: int, length: int) -> int | None:
    """Backwards, an end before the first value means `to the first`; Python would count from the back."""
    return None if step < 0 and stop < -length else stop


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % x.ndim
    chosen = torch.where(indices < 0, indices + x.shape[axis], indices)
    if not chosen.ndim:
        return x.select(axis, int(chosen))
    picked = x.index_select(axis, chosen.flatten().to(x.device))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def gather_positions(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """GatherND."""
    if batch_dims:
        raise ModelError("GatherND with batch_dims is not supported; export the model without it")
    return x[indices.unbind(-1)]


def scatter_positions(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """ScatterND."""
    if reduction not in {"none", "add"}:
        raise ModelError(
            f"ScatterND with reduction {reduction!r} is not supported; export the model without it"
        )
    return x.index_put(indices.unbind(-1), updates, accumulate=reduction == "add")


def expand(x: Tensor, sizes: Tensor) -> Tensor:
    return x.expand(room(torch.broadcast_shapes(x.shape, tuple(sizes.tolist()))))


def tile(x: Tensor, times: Tensor) -> Tensor:
    counts = times.tolist()
    room([s * t for s, t in zip(x.shape, counts, strict=True)])
    return x.repeat(counts)


def ranged(start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    first, last, by = (t.item() for t in (start, limit, step))
    room([max(0, math.ceil((last - first) / by))] if by else [-1])
    return torch.arange(first, last, by, dtype=start.dtype)


def constant_of_shape(sizes: Tensor, *, value: Tensor | None = None) -> Tensor:
    filling = torch.zeros(1) if value is None else value
    return filling.reshape(()).expand(room(sizes.tolist())).clone()


def pad(
    x: Tensor,
    given: Tensor | None = None,
    filling: Tensor | None = None,
    along: Tensor | None = None,
    /,
    *,
    mode: str = "constant",
    pads: Sequence[int] = (),
    value: float = 0.0,
) -> Tensor:
    widths = list(pads) if given is None else given.tolist()
    axes = list(range(x.ndim)) if along is None else [axis % x.ndim for axis in along.tolist()]
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(axes):
        before[axis], after[axis] = widths[i], widths[i + len(axes)]
    room([s + b + a for s, b, a in zip(x.shape, before, after, strict=True)])
    flat = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    if mode == "constant":
        return functional.pad(x, flat, value=value if filling is None else filling.item())
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    named = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return functional.pad(x, flat, mode=named[mode])


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    if mode == "CRD":
        parts = x.reshape(n, depth, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, b, b, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, depth, h * b, w * b)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    parts = x.reshape(n, c, h // b, b, w // b, b)
    parts = parts.permute(0, 1, 3, 5, 2, 4) if mode == "CRD" else parts.permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b * b, h // b, w // b)


def triangle(x: Tensor, diagonal: Tensor | None = None, *, upper: int = 1) -> Tensor:
    offset = 0 if diagonal is None else int(diagonal)
    return x.triu(offset) if upper else x.tril(offset)


def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count = int(depth)
    room([*indices.shape, count])
    off, on = values.unbind()
    whole = indices.long()
    at = torch.where(whole < 0, whole + count, whole)
    hot = (at[..., None] == torch.arange(count, device=at.device)).movedim(-1, axis)
    return torch.where(hot, on, off)
