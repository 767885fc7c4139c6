"""The same classifier, faster: BatchNorm folded into convolutions, and bf16 where it pays on this machine."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from detrigger.model import Classifier

Precision = Literal["auto", "fp32", "bf16"]

WORTH = 1.15
"""bf16 must be this much faster than fp32 to be chosen, so that noise does not choose."""


def fastest(model: Classifier, x: Float[Tensor, "n c h w"], precision: Precision) -> Classifier:
    """`model` for searching: folded, and in bf16 if asked for or if `auto` measures it to be faster.

    `x` is a batch as the search will use it. What is found with it must be measured again with `model`.
    """
    quick = folded(model)
    if precision == "auto":
        candidates = {p: dataclasses.replace(quick, precision=p) for p in ("fp32", "bf16")}
        seconds = {p: min(_seconds(m, x) for _ in range(3)) for p, m in candidates.items()}
        precision = "bf16" if seconds["fp32"] > WORTH * seconds["bf16"] else "fp32"
    return dataclasses.replace(quick, precision=precision)


def _seconds(model: Classifier, x: Tensor) -> float:
    """Of one forward and backward pass: on a CPU its own time, which other programs hardly disturb."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    x = x.detach().requires_grad_()
    began = clock()
    model(x).sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def folded(model: Classifier) -> Classifier:
    """Every BatchNorm that is fed by a convolution alone becomes part of it.

    Which feeds which is seen in one pass; the result is compared with the original on random images, and
    the original is returned if they differ (a network that shares layers, say).
    """
    pairs = convolutions_with_norms(model)
    if not pairs:
        return model
    net = copy.deepcopy(model.net)
    for conv_name, norm_name in pairs:
        conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
        _replace(net, conv_name, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type]
        _replace(net, norm_name, nn.Identity())
    quick = dataclasses.replace(model, net=net)
    probe = torch.rand(4, *model.image_shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    with torch.no_grad():
        expected, got = model(probe), quick(probe)
    return quick if torch.allclose(expected, got, rtol=1e-3, atol=1e-3) else model


def convolutions_with_norms(model: Classifier) -> list[tuple[str, str]]:
    """Names of convolutions and of the BatchNorms that take their output, as one pass shows."""
    made_by: dict[int, str] = {}
    alive: list[Any] = []  # so that no id is given out twice during the pass
    pairs: list[tuple[str, str]] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            made_by[id(output)] = names[module]
        elif (source := made_by.get(id(inputs[0]))) and module.running_mean is not None:
            pairs.append((source, names[module]))
        alive.append(output)

    names: dict[nn.Module, str] = {
        m: n for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    }
    handles = [m.register_forward_hook(hook) for m in names]
    try:
        with torch.no_grad():
            model(torch.full((1, *model.image_shape), 0.5, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    used = [name for pair in pairs for name in pair]
    return [(conv, norm) for conv, norm in pairs if used.count(conv) == used.count(norm) == 1]


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, module)
