"""ONNX operators of neural networks: convolutions, pooling, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detrigger.errors import ModelError

_OF_OTHER_OUTPUTS = ("qk_matmul_output_mode", "softmax_precision")
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_MEAN = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def widths(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str,
) -> tuple[list[int], list[int]]:
    """Padding before and after each axis, for images of these sizes."""
    rank = len(kernel)
    if auto_pad in {"NOTSET", ""}:
        return list(pads[:rank]) or [0] * rank, list(pads[rank:]) or [0] * rank
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    before, after = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        less, more = missing // 2, missing - missing // 2
        before.append(less if auto_pad == "SAME_UPPER" else more)
        after.append(more if auto_pad == "SAME_UPPER" else less)
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Wider along the last axes."""
    flat = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Tensor:
    del kernel_shape  # the weight's
    kernel = weight.shape[2:]
    rank = len(kernel)
    steps, spread = tuple(strides) or (1,) * rank, tuple(dilations) or (1,) * rank
    x = padded(x, *widths(x.shape[2:], kernel, steps, spread, pads, auto_pad))
    return _CONVOLUTIONS[rank - 1](x, weight, bias, steps, 0, spread, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    output_padding: Sequence[int] = (),
    group: int = 1,
    **others: Any,
) -> Tensor:
    rank = weight.ndim - 2
    begin, end = list(pads[:rank]) or [0] * rank, list(pads[rank:]) or [0] * rank
    if begin != end or others.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in others:
        raise ModelError("only the same padding on both sides is supported; export the model with that")
    steps, spread = tuple(strides) or (1,) * rank, tuple(dilations) or (1,) * rank
    more = tuple(output_padding) or (0,) * rank
    return _TRANSPOSED[rank - 1](x, weight, bias, steps, begin, more, group, spread)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    del storage_order  # of the second output
    rank = len(kernel_shape)
    steps, spread = tuple(strides) or (1,) * rank, tuple(dilations) or (1,) * rank
    before, after = widths(x.shape[2:], kernel_shape, steps, spread, pads, auto_pad)
    if before != after or any(2 * b > k for b, k in zip(before, kernel_shape, strict=True)):
        x, before = padded(x, before, after, float("-inf")), [0] * rank
    return _MAX[rank - 1](x, tuple(kernel_shape), steps, before, spread, bool(ceil_mode))


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    rank = len(kernel_shape)
    steps, spread = tuple(strides) or (1,) * rank, tuple(dilations) or (1,) * rank
    if set(spread) != {1}:
        raise ModelError("AveragePool with dilations is not supported; export the model without them")
    before, after = widths(x.shape[2:], kernel_shape, steps, spread, pads, auto_pad)
    pool, kernel, up, whole = _MEAN[rank - 1], tuple(kernel_shape), bool(ceil_mode), bool(count_include_pad)
    if before == after and all(2 * b <= k for b, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, steps, before, up, whole)
    sums = pool(padded(x, before, after), kernel, steps, 0, up)
    if whole:
        return sums
    return sums / pool(padded(torch.ones_like(x[:1, :1]), before, after), kernel, steps, 0, up)


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    del momentum
    standardising = training_mode and x.ndim == 3  # of weights, as in NFNets
    if (training_mode and not standardising) or not spatial:
        raise ModelError("BatchNormalization in training mode is not supported; export with model.eval()")
    if standardising:
        return functional.batch_norm(x, None, None, scale, shift, training=True, eps=epsilon)
    return functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=epsilon)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *caches: Tensor | None,
    scale: float | None = None,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    **others: Any,
) -> Tensor:
    """Queries, keys and values as n × heads × length × d, or n × length × (heads · d)."""
    wanted = [key for key, told in others.items() if told and key not in _OF_OTHER_OUTPUTS]
    wanted += ["caches"] * any(cache is not None for cache in caches)
    if wanted:
        raise ModelError(f"Attention with {', '.join(wanted)} is not supported; export the model without")
    flat = query.ndim == 3
    if flat:
        heads = (q_num_heads, kv_num_heads, kv_num_heads)
        parts = zip((query, key, value), heads, strict=True)
        query, key, value = (t.unflatten(2, (count, -1)).transpose(1, 2) for t, count in parts)
    grouped = query.shape[1] != key.shape[1]
    result = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=grouped)
    return result.transpose(1, 2).flatten(2) if flat else result


def instance_normalization(x: Tensor, scale: Tensor, shift: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    del stash_type
    result = functional.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return result if shift is None else result + shift


def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    del stash_type
    return functional.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


def group_normalization(
    x: Tensor, scale: Tensor, shift: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    del stash_type
    per_group = len(scale) != x.shape[1]  # before opset 21
    times = x.shape[1] // num_groups if per_group else 1
    weight, bias = scale.repeat_interleave(times), shift.repeat_interleave(times)
    return functional.group_norm(x, num_groups, weight, bias, epsilon)


def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    return functional.local_response_norm(x, size, alpha, beta, bias)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    return functional.normalize(x, float(p), axis)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.log_softmax(axis)


def softmax_of_rest(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over all axes from `axis` on."""
    return x.flatten(axis % x.ndim).softmax(-1).reshape(x.shape)


def log_softmax_of_rest(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.flatten(axis % x.ndim).log_softmax(-1).reshape(x.shape)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 1,
) -> Tensor:
    del broadcast  # before opset 7
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def dropout(x: Tensor, *inputs: Tensor | None, **attributes: object) -> Tensor:
    """Of a network in use: nothing happens."""
    del inputs, attributes
    return x


def einsum(*terms: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *terms)
