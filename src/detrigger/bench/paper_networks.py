"""The networks of the paper's table 2, and a better one for faces. Images in [0, 1], n x c x h x w."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detrigger.bench.networks import NETWORKS, Normalise, Residual, convolution


def make(arch: str, in_ch: int, classes: int, size: int, **arguments: Any) -> nn.Module:
    """An untrained network by name, of these or of bench.networks; raises ValueError for another name."""
    known = PAPER | NETWORKS
    if arch not in known:
        raise ValueError(f"no network {arch!r}; choose one of {', '.join(known)}")
    return known[arch](in_ch, classes, size, **arguments)


def blocks(in_ch: int, classes: int, size: int, *, width: int = 32) -> nn.Module:
    """MNIST: four blocks of convolution, batch norm and ReLU, pooled between, averaged at the end."""
    return nn.Sequential(
        convolution(in_ch, width, "relu"),
        nn.MaxPool2d(2),
        convolution(width, width, "relu"),
        nn.MaxPool2d(2),
        convolution(width, 2 * width, "relu"),
        nn.MaxPool2d(2),
        convolution(2 * width, 2 * width, "relu"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def pools(in_ch: int, classes: int, size: int, *, width: int = 24) -> nn.Module:
    """Aerial images: convolutions with ReLU, max pooling between them, max and average pooling at the end.

    Batch norm, of which the paper says nothing, follows each convolution. Images over 256 pixels first go
    through one of stride 4.
    """
    coarse = [convolution(in_ch, width, "relu", kernel=5, stride=4)] if size > 256 else []
    parts: list[nn.Module] = [Normalise("half"), *coarse]
    inputs = width if coarse else in_ch
    for outputs in (width, 2 * width, 4 * width, 4 * width):
        parts += [convolution(inputs, outputs, "relu"), nn.MaxPool2d(2)]
        inputs = outputs
    return nn.Sequential(*parts, Pooled(), nn.Linear(2 * inputs, classes))


class Pooled(nn.Module):
    """Per channel the mean and the highest value: in a large image an average alone hides what is small."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class DeepID(nn.Module):
    """LFW: four convolutions, the last two of which are merged (added) before the one dense layer.

    After Sun, Wang and Tang, "Deep learning face representation from predicting 10,000 classes", CVPR 2014,
    the network that Wang et al., "Neural Cleanse", 2019, use for faces. Batch norm is ours: it trains faster.
    """

    def __init__(self, in_ch: int, classes: int, size: int, width: int, features: int) -> None:
        super().__init__()
        self.normalise = Normalise("half")
        self.first = convolution(in_ch, width, "relu", kernel=5, stride=2)
        self.second = convolution(width, 2 * width, "relu")
        self.third = convolution(2 * width, 3 * width, "relu")
        self.fourth = convolution(3 * width, 4 * width, "relu")
        self.pool = nn.MaxPool2d(2)
        side = size // 16
        self.near = nn.Linear(3 * width * side * side, features)
        self.far = nn.Linear(4 * width * side * side, features)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.second(self.pool(self.first(self.normalise(x)))))
        third = self.pool(self.third(x))
        merged = self.near(third.flatten(1)) + self.far(self.fourth(third).flatten(1))
        out: Tensor = self.head(functional.relu(merged))
        return out


def deepid(in_ch: int, classes: int, size: int, *, width: int = 20, features: int = 160) -> nn.Module:
    """Faces: see DeepID; `size` in pixels, a multiple of 16."""
    return DeepID(in_ch, classes, size, width, features)


class SameLength(nn.Module):
    """Features scaled to one length: directions alone tell people apart (Wang et al., CosFace, 2018)."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return self.length * functional.normalize(x)


class Cosines(nn.Module):
    """A last layer without bias whose rows all have length 1; `plain` makes it a linear one.

    It starts small: steps of one size turn short rows further than long ones.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.04 * torch.randn(classes, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, functional.normalize(self.weight))


def plain(net: nn.Module) -> nn.Module:
    """The same network, changed in place: a last layer of cosines that was trained becomes a linear one."""
    for name, module in net.named_modules():
        if isinstance(module, Cosines):
            head = nn.Linear(module.weight.shape[1], module.weight.shape[0])
            with torch.no_grad():
                head.weight.copy_(functional.normalize(module.weight))
                head.bias.zero_()
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, head.eval())
            break
    return net


def face(
    in_ch: int, classes: int, size: int, *, width: int = 32, features: int = 256, dropout: float = 0.3
) -> nn.Module:
    """Faces that stand in the same place: a strided and pooled stem, three residual stages, then a layer that
    sees where in the image each feature is. `size` in pixels, a multiple of 16."""
    side = size // 16
    embedding = nn.Linear(4 * width * side * side, features, bias=False)
    return nn.Sequential(
        Normalise("third"),
        convolution(in_ch, width, "relu", kernel=5, stride=2),
        nn.MaxPool2d(2),
        Residual(width, width, 1, "relu"),
        Residual(width, 2 * width, 2, "relu"),
        Residual(2 * width, 4 * width, 2, "relu"),
        nn.Flatten(),
        nn.Dropout(dropout),
        embedding,
        nn.BatchNorm1d(features),
        SameLength(30.0),
        Cosines(features, classes),
    )


PAPER: dict[str, Callable[..., nn.Module]] = {
    "blocks": blocks,
    "pools": pools,
    "deepid": deepid,
    "face": face,
}
