"""A classifier of images in [0, 1], with frozen weights and its normalisation inside."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.errors import ModelError, UsageError

INPUT = ":in"
"""Ending of a layer name that means what goes into the layer, not what comes out."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from; empty for one made in memory."""

    path: str = ""
    """File as the user named it."""
    format: str = "memory"
    """`safetensors`, `state-dict`, `legacy-state-dict`, `torchscript`, `pt2`, `onnx` or `memory`."""
    sha256: str = ""
    """Of the file's bytes, and those of files that belong to it."""
    architecture: str = ""
    """`timm:NAME`, `torchvision:NAME` or `file.py:factory`, with its arguments; empty if not needed."""
    within: tuple[str, ...] = ()
    """Keys of a checkpoint that led to the weights."""
    prefix: str = ""
    """What was taken off the names of the weights."""
    notes: tuple[str, ...] = ()
    """What to know of how it was read, one sentence each."""


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants done to images in [0, 1] before it sees them: (x - mean) / std."""

    mean: tuple[float, ...] = (0.0,)
    """Per channel, or one for all; in units of the [0, 1] scale."""
    std: tuple[float, ...] = (1.0,)
    """Per channel, or one for all; positive."""


@dataclass(frozen=True)
class Classifier:
    """A network that maps images in [0, 1] to one logit per class.

    The network is copied, put in eval mode and its weights are frozen: nothing done through a
    Classifier changes the network that was given. Gradients flow to the images.
    """

    net: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    """Names, in the order of the network's outputs."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    preprocessing: Preprocessing = Preprocessing()
    probabilities: bool = False
    """The network returns probabilities; their logarithm serves as logits."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the computation; the weights are fp32 all the same."""
    at_once: int | None = None
    """Images per pass at most, for want of memory; None: as many as are given."""
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        frozen = copy.deepcopy(self.net).eval().requires_grad_(False)
        for tensor in (*frozen.parameters(), *frozen.buffers()):
            if tensor.ndim == 4:  # 1.5 to 4 times as fast on CPUs; Module.to fails if others have 5
                tensor.data = tensor.data.to(memory_format=torch.channels_last)
        object.__setattr__(self, "net", frozen)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.net.parameters()), torch.device("cpu"))

    def to(self, device: torch.device) -> Classifier:
        """The same on another device."""
        return dataclasses.replace(self, net=copy.deepcopy(self.net).to(device))

    def __call__(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits for images in [0, 1].

        Raises ModelError if the network fails on such images or does not return n x classes.
        """
        return torch.cat([forward(self, self.net, part) for part in self._parts(x)])

    def activations(self, x: Float[Tensor, "n c h w"], layer: str) -> Float[Tensor, "n d"]:
        """Output of a named layer (its input, if the name ends in `:in`), averaged over positions.

        One column per neuron: a channel of a convolution, a feature of a linear layer.
        Raises UsageError for a name that is not there.
        """
        found = []
        for part in self._parts(x):
            with torch.no_grad(), recorded(self.net, layer) as seen:
                forward(self, self.net, part)
            if not seen:
                raise UsageError(f"layer {layer!r} did not run; choose one of {', '.join(layers(self)[:12])}")
            found.append(pooled(seen[-1], channels_last=channels_last(self.net, layer)))
        return torch.cat(found)

    def _parts(self, x: Float[Tensor, "n c h w"]) -> tuple[Tensor, ...]:
        return x.split(self.at_once) if self.at_once else (x,)


def forward(model: Classifier, net: nn.Module, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
    """Logits of `net`, with the preprocessing and output convention of `model`.

    For repairs, which train a copy of a model's network in other than eval mode.
    """
    p = model.preprocessing
    if p != Preprocessing():  # a search would otherwise spend some per cent on changing nothing
        mean, std = (x.new_tensor(v).reshape(1, -1, 1, 1) for v in (p.mean, p.std))
        x = (x - mean) / std
    ready = x.to(memory_format=torch.channels_last)  # `contiguous` leaves one channel as it is: half as fast
    try:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=model.precision == "bf16"):
            out = net(ready)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError) as error:
        shape = "×".join(map(str, x.shape[1:]))
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"the network fails on images of shape {shape} ({reason}); "
            "check --size, the number of channels and --arch-kw"
        ) from error
    if not isinstance(out, Tensor) or out.shape != (len(x), len(model.classes)):
        got = "×".join(map(str, out.shape)) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the network returned {got}, wanted one logit per class, {len(x)}×{len(model.classes)}; "
            "check the architecture and the number of classes"
        )
    out = out.float()
    return out.clamp_min(1e-12).log() if model.probabilities else out


def pooled(value: Tensor, *, channels_last: bool) -> Float[Tensor, "n d"]:
    """Mean over positions: n x d from n x d x h x w (channels first) or n x ... x d (channels last)."""
    if value.ndim == 2:
        return value
    return value.flatten(1, -2).mean(1) if channels_last else value.flatten(2).mean(2)


@contextmanager
def recorded(net: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """The tensors that come out of (or, with `:in`, go into) a layer while the block runs."""
    name = layer.removesuffix(INPUT)
    modules = dict(net.named_modules())
    if name not in modules:
        known = ", ".join([n for n, m in modules.items() if n and not list(m.children())][:12])
        raise UsageError(f"no layer {name!r} in the network; among others it has: {known}")
    seen: list[Tensor] = []

    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        value = inputs[0] if layer.endswith(INPUT) else output
        if isinstance(value, Tensor):
            seen.append(value)

    handle = modules[name].register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def channels_last(net: nn.Module, layer: str) -> bool:
    """Whether the neurons of a layer are the last dimension of its tensors (n x ... x d)."""
    module = net.get_submodule(layer.removesuffix(INPUT))
    return isinstance(module, nn.Linear | nn.LayerNorm)


def layers(model: Classifier) -> tuple[str, ...]:
    """Layers whose neurons can be looked at and pruned, in order of execution, the penultimate last.

    A convolution that feeds a BatchNorm directly is left out: its neurons are those of the BatchNorm. A
    BatchNorm without weights of its own is left out itself.
    """
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)
    names: dict[nn.Module, str] = {
        m: n for n, m in model.net.named_modules() if isinstance(m, kinds) and m.weight is not None
    }
    order: list[str] = []
    outputs: dict[int, str] = {}

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            fed_by = outputs.get(id(inputs[0]))
            if fed_by in order:
                order.remove(fed_by)
        if names[module] not in order:
            order.append(names[module])
        outputs[id(output)] = names[module]
        alive.append(output)

    alive: list[Any] = []  # so that an id is not given out twice during the pass
    handles = [m.register_forward_hook(hook) for m in names]
    try:
        with torch.no_grad():
            model(torch.full((1, *model.image_shape), 0.5, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise ModelError("the network has no convolution or linear layer to look into")
    *inner, head = order
    return (*inner, head + INPUT)


def penultimate(model: Classifier) -> str:
    """Name of the neurons just before the last linear (or convolution) layer."""
    return layers(model)[-1]


def linear_head(model: Classifier) -> bool:
    """Whether the last layer is linear, so that its weights can be solved or made anew."""
    return isinstance(model.net.get_submodule(penultimate(model).removesuffix(INPUT)), nn.Linear)
