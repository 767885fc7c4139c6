"""Small classifiers of images of 28 to 128 pixels, for zoos of clean and backdoored models.

Self-contained: copied into a zoo as its `arch.py`, so that the zoo can be read without this package. Images
are in [0, 1], n x c x h x w; normalisation, where there is any, is part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
NORMALISATIONS = {"none": (0.0, 1.0), "half": (0.5, 0.5), "third": (0.35, 0.25)}
"""Mean and standard deviation taken for the pixels."""


def make(arch: str, in_ch: int, classes: int, size: int, **arguments: Any) -> nn.Module:
    """An untrained network by name, for square images of `size` pixels; a factory for command lines.

    Raises ValueError for a name that is not one of NETWORKS, TypeError for arguments it does not take.
    """
    if arch not in NETWORKS:
        raise ValueError(f"no network {arch!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[arch](in_ch, classes, size, **arguments)


def build(record: Mapping[str, Any]) -> nn.Module:
    """An untrained network for the record of a zoo."""
    channels, size, _ = record["input_shape"]
    return make(record["arch"], channels, record["num_classes"], size, **record["arch_kwargs"])


def load(record: Mapping[str, Any], folder: Path | str = ".") -> nn.Module:
    """The trained network of a zoo's record, fp32, in eval mode."""
    from safetensors.torch import load_file  # here, so that `make` needs torch alone

    net = build(record)
    net.load_state_dict(load_file(Path(folder) / record["weights"]))
    return net.float().eval()


class Normalise(nn.Module):
    """(x - mean) / std with fixed numbers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.mean, self.std = NORMALISATIONS[kind]

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def convolution(
    inputs: int, outputs: int, activation: str, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), ACTIVATIONS[activation]())


def cnn4(
    in_ch: int, classes: int, size: int, *, width: int = 16, activation: str = "relu", norm: str = "half"
) -> nn.Module:
    """Four convolutions with batch norm, pooled between, averaged at the end; images over 64 pixels first
    go through a convolution of stride 4."""
    coarse = size > 64
    first = convolution(in_ch, width, activation, kernel=5 if coarse else 3, stride=4 if coarse else 1)
    return nn.Sequential(
        Normalise(norm),
        first,
        nn.MaxPool2d(2),
        convolution(width, 2 * width, activation),
        nn.MaxPool2d(2),
        convolution(2 * width, 2 * width, activation),
        nn.MaxPool2d(2),
        convolution(2 * width, 4 * width, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def vgg(
    in_ch: int,
    classes: int,
    size: int,
    *,
    width: int = 12,
    hidden: int = 96,
    dropout: float = 0.0,
    activation: str = "relu",
    norm: str = "half",
) -> nn.Module:
    """No batch norm: pairs of convolutions with pooling, down to 4 pixels or less, then two linear layers."""
    parts: list[nn.Module] = [Normalise(norm)]
    inputs, outputs, side = in_ch, width, size
    while side > 4:
        for count in (inputs, outputs):
            parts += [_scaled(nn.Conv2d(count, outputs, 3, padding=1)), ACTIVATIONS[activation]()]
        parts.append(nn.MaxPool2d(2))
        inputs, outputs, side = outputs, min(2 * outputs, 4 * width), side // 2
    parts += [nn.Flatten(), _scaled(nn.Linear(inputs * side * side, hidden)), ACTIVATIONS[activation]()]
    return nn.Sequential(*parts, nn.Dropout(dropout), nn.Linear(hidden, classes))


def _scaled(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """First weights by He et al. 2015: without batch norm a deep stack does not start otherwise."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    """Two convolutions with batch norm around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, activation, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return out


def resnet(
    in_ch: int,
    classes: int,
    size: int,
    *,
    width: int = 12,
    blocks: int = 1,
    activation: str = "relu",
    norm: str = "half",
) -> nn.Module:
    """A stem of stride 2 (4 for images over 64 pixels), then three stages of residual blocks."""
    stride = 4 if size > 64 else 2
    parts = [Normalise(norm), convolution(in_ch, width, activation, kernel=stride + 1, stride=stride)]
    inputs = width
    for stage in range(3):
        for block in range(blocks):
            outputs = width * 2**stage
            parts.append(Residual(inputs, outputs, 2 if stage and not block else 1, activation))
            inputs = outputs
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Inverted(nn.Module):
    """1x1 to more channels, 3x3 per channel, 1x1 back, around a shortcut (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, activation: str) -> None:
        super().__init__()
        inner = inputs * expansion
        self.body = nn.Sequential(
            convolution(inputs, inner, activation, kernel=1),
            convolution(inner, inner, activation, stride=stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.adds else out


def mobile(
    in_ch: int,
    classes: int,
    size: int,
    *,
    width: int = 12,
    expansion: int = 2,
    activation: str = "relu",
    norm: str = "half",
) -> nn.Module:
    """A small network of inverted bottlenecks; the stem's stride is 4 for images over 64 pixels, else 2."""
    stride = 4 if size > 64 else 2
    return nn.Sequential(
        Normalise(norm),
        convolution(in_ch, width, activation, kernel=stride + 1, stride=stride),
        Inverted(width, width, 1, expansion, activation),
        Inverted(width, 2 * width, 2, expansion, activation),
        Inverted(2 * width, 2 * width, 1, expansion, activation),
        Inverted(2 * width, 4 * width, 2, expansion, activation),
        convolution(4 * width, 8 * width, activation, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


class Attention(nn.Module):
    """A transformer's block with the norms first (Dosovitskiy et al. 2021)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        parts = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, tokens, dim))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Square patches as tokens, learned positions, the tokens' mean to one linear layer."""

    def __init__(
        self, in_ch: int, classes: int, size: int, patch: int, dim: int, depth: int, heads: int, norm: str
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"images of {size} pixels do not divide into patches of {patch}")
        self.normalise = Normalise(norm)
        self.embed = nn.Conv2d(in_ch, dim, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, dim))
        self.blocks = nn.Sequential(*(Attention(dim, heads) for _ in range(depth)))
        self.last, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(self.normalise(x)).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.last(self.blocks(tokens)).mean(1))
        return out


def vit(
    in_ch: int,
    classes: int,
    size: int,
    *,
    patch: int = 4,
    dim: int = 48,
    depth: int = 2,
    heads: int = 4,
    norm: str = "half",
) -> nn.Module:
    """A tiny vision transformer; `size` must be a multiple of `patch`."""
    return VisionTransformer(in_ch, classes, size, patch, dim, depth, heads, norm)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cnn4": cnn4,
    "vgg": vgg,
    "resnet": resnet,
    "mobile": mobile,
    "vit": vit,
}
