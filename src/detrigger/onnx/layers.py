"""Nodes that are layers as PyTorch knows them, so that pruning, refitting and folding work on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from detrigger.onnx.graph import Node
from detrigger.onnx.neural import padded, widths
from detrigger.onnx.operators import Operator


@dataclass(frozen=True)
class Layer:
    """A layer with weights of its own."""

    module: nn.Module
    tensors: tuple[tuple[str, int], ...]
    """Name in the module, and number of the node's input it stands for."""
    transposed: bool = False
    """The weight is stored the other way round in the file."""
    before: Operator | None = None
    """What is done to the input first."""


def layer(node: Node, x: Tensor, weights: Sequence[Tensor | None]) -> Layer | None:
    """A node as a layer, if all of its inputs but the first are weights, given here by number; else None.

    `x` is an example of its input. A MatMul may have a third input, which is added to the result.
    """
    given = [number for number, name in enumerate(node.inputs) if number and name]
    if not given or any(weights[number] is None for number in given):
        return None
    if node.operator == "Conv" and x.ndim == 4:
        return _conv(node, *weights[1:])
    if node.operator == "BatchNormalization" and x.ndim in {2, 3, 4}:
        return _norm(node, x, *weights[1:])
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if node.operator == "MatMul" or (
        node.operator == "Gemm"
        and all(node.attributes.get(key, value) == value for key, value in plain.items())
    ):
        return _linear(weights[1], weights[2] if 2 in given else None, not node.attributes.get("transB", 0))
    return None


def _conv(node: Node, weight: Tensor | None, bias: Tensor | None = None) -> Layer | None:
    if weight is None or weight.ndim != 4:
        return None
    told = node.attributes
    kernel, group = (weight.shape[2], weight.shape[3]), told.get("group", 1)
    strides, dilations = (tuple(told.get(key, (1, 1))) for key in ("strides", "dilations"))
    pads, auto = tuple(told.get("pads", (0, 0, 0, 0))), told.get("auto_pad", "NOTSET")
    inside = auto == "NOTSET" and pads[:2] == pads[2:]
    with torch.device("meta"):
        module = nn.Conv2d(
            weight.shape[1] * group,
            weight.shape[0],
            kernel,
            stride=strides,
            padding=pads[:2] if inside else 0,
            dilation=dilations,
            groups=group,
            bias=bias is not None,
        )
    _fill(module, weight=weight, bias=bias)
    before = partial(_widened, kernel=kernel, strides=strides, dilations=dilations, pads=pads, auto_pad=auto)
    names = (("weight", 1),) if bias is None else (("weight", 1), ("bias", 2))
    return Layer(module, names, before=None if inside else before)


def _widened(
    x: Tensor,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str,
) -> Tensor:
    return padded(x, *widths(x.shape[2:], kernel, strides, dilations, pads, auto_pad))


def _norm(node: Node, x: Tensor, *weights: Tensor | None) -> Layer | None:
    told = node.attributes
    if told.get("training_mode", 0) or not told.get("spatial", 1) or len(node.outputs) != 1:
        return None
    kind = nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d
    module = kind(x.shape[1], told.get("epsilon", 1e-5), 1 - told.get("momentum", 0.9))
    names = ("weight", "bias", "running_mean", "running_var")
    _fill(module, **dict(zip(names, weights, strict=True)))
    return Layer(module.eval(), tuple((name, number) for number, name in enumerate(names, start=1)))


def _linear(weight: Tensor | None, bias: Tensor | None, transposed: bool) -> Layer | None:
    if weight is None or weight.ndim != 2:
        return None
    matrix = weight.T if transposed else weight
    if bias is not None and bias.shape != matrix.shape[:1]:
        return None
    with torch.device("meta"):
        module = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None)
    _fill(module, weight=matrix, bias=bias)
    return Layer(module, (("weight", 1),) if bias is None else (("weight", 1), ("bias", 2)), transposed)


def _fill(module: nn.Module, **tensors: Tensor | None) -> None:
    """Copies of their own, as a tensor of the file may serve several nodes."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        own = tensor.clone(memory_format=torch.contiguous_format)
        if isinstance(getattr(module, name), nn.Parameter):
            setattr(module, name, nn.Parameter(own))
        else:
            module.register_buffer(name, own)
