"""Neurons made silent in the weights: the same tensors, with some rows or columns zero."""

from __future__ import annotations

import copy
import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor, nn

from detrigger.errors import UsageError
from detrigger.model import INPUT, Classifier


def silenced(model: Classifier, layer: str, neurons: Int[Tensor, " d"]) -> Classifier:
    """A copy of the model in which these neurons of a layer are always zero for the layers after it.

    Raises UsageError for a layer without weights per neuron.
    """
    net = copy.deepcopy(model.net)
    silence(net, layer, neurons)
    return dataclasses.replace(model, net=net)


@torch.no_grad()
def silence(net: nn.Module, layer: str, neurons: Int[Tensor, " d"]) -> None:
    """The same in the network itself."""
    module = net.get_submodule(layer.removesuffix(INPUT))
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    mixing, scaling = (nn.Conv2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d)
    prunable = mixing if layer.endswith(INPUT) else mixing + scaling
    if not isinstance(weight, Tensor) or not isinstance(module, prunable):
        raise UsageError(
            f"layer {layer!r} ({type(module).__name__}) has no weights per neuron; choose another"
        )
    if layer.endswith(INPUT):
        weight[:, neurons] = 0
    else:
        weight[neurons] = 0
        if isinstance(bias, Tensor):
            bias[neurons] = 0
