"""Networks whose answer is known: made by hand, in milliseconds, with nothing learned.

Every class has a template of light and dark pixels; its images are that template, faint, plus noise. One
neuron per class measures how well the image fits its template. A backdoored network has one more neuron per
target, which sees only one corner of the image, where no template is, and outweighs the classes if the
trigger is there. So the target, the trigger, the neuron to prune and the network without the backdoor are all
known. For a target to stand out clearly by the size of its trigger, images should be 10×10 or more.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger.patch import PatchTrigger

PENULTIMATE = "fc:in"
FAINT = 0.3
"""Height of a template above mid-grey."""
NOISE = 0.1
OWN, BACKDOOR = 10.0, 20.0
"""Logit of an image's own class, and what a whole trigger adds to its target."""


@dataclass(frozen=True)
class Planted:
    """A network, images it classifies without error, and the truth about its backdoors."""

    model: Classifier
    images: Images
    targets: tuple[int, ...]
    triggers: tuple[PatchTrigger, ...]
    """One per target, each a stack of one: a patch in a corner of its own."""
    neurons: tuple[int, ...]
    """One per target: its column in the activations of PENULTIMATE."""


def planted(
    *,
    classes: int = 6,
    targets: tuple[int, ...] = (2,),
    size: int = 12,
    channels: int = 1,
    patch: int = 3,
    norm: bool = True,
    per_class: int = 24,
    seed: int = 0,
) -> Planted:
    """A network with a backdoor to each target (at most four; none: the clean twin of the same seed)."""
    generator = torch.Generator().manual_seed(seed)
    templates = torch.randint(0, 2, (classes, channels, size, size), generator=generator) * 2.0 - 1
    patches = torch.randint(0, 2, (4, channels, patch, patch), generator=generator).float()
    for corner in _corners(size, patch):
        templates[:, *corner] = 0  # the same for a clean twin
    triggers = tuple(
        _trigger(patches[i], corner, size)
        for i, corner in zip(range(len(targets)), _corners(size, patch), strict=False)
    )
    y = torch.arange(classes).repeat_interleave(per_class)
    noise = (torch.rand(len(y), channels, size, size, generator=generator) * 2 - 1) * NOISE
    names = tuple(f"class {i}" for i in range(classes))
    net = make(classes=classes, channels=channels, size=size, backdoors=len(targets), norm=norm)
    _plant(net, templates, targets, triggers)
    return Planted(
        model=Classifier(net, names, (channels, size, size)),
        images=Images(0.5 + FAINT * templates[y] + noise, y, names),
        targets=targets,
        triggers=triggers,
        neurons=tuple(range(classes, classes + len(targets))),
    )


def one_source(size: int = 12) -> tuple[Classifier, Images]:
    """Only images of class 4 that carry the trigger are given class 2."""
    truth = planted(size=size)
    net = copy.deepcopy(truth.model.net)
    with torch.no_grad():  # the planted neuron now wants to see both the trigger and class 4
        conv = net.get_submodule("conv2")
        conv.get_parameter("weight")[6] += conv.get_parameter("weight")[4]
        conv.get_parameter("bias")[6] -= 0.9
        net.get_parameter("fc.weight")[2, 6] *= 1.5
    return dataclasses.replace(truth.model, net=net), truth.images


class Whole(nn.Conv2d):
    """A convolution whose kernel covers the image, as the product that it is.

    Without AVX-512, oneDNN takes up to 15 times as long for the gradient of such a kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


def make(
    *, classes: int = 6, channels: int = 1, size: int = 12, backdoors: int = 1, norm: bool = True
) -> nn.Module:
    """The architecture alone, also for command lines: `--arch tests/planted.py:make`."""
    neurons = classes + backdoors
    parts: list[tuple[str, nn.Module]] = [("conv1", nn.Conv2d(channels, 2 * channels, 3, padding=1))]
    if norm:
        parts.append(("norm", nn.BatchNorm2d(2 * channels)))
    parts += [
        ("relu1", nn.ReLU()),
        ("conv2", Whole(2 * channels, neurons, size)),
        ("relu2", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(neurons, classes)),
    ]
    return nn.Sequential(OrderedDict(parts))


def _corners(size: int, patch: int) -> tuple[tuple[slice, ...], ...]:
    first, last, everything = slice(0, patch), slice(size - patch, size), slice(None)
    ends = ((last, last), (first, first), (last, first), (first, last))
    return tuple((everything, rows, columns) for rows, columns in ends)


def _trigger(colours: Tensor, corner: tuple[slice, ...], size: int) -> PatchTrigger:
    mask, pattern = torch.zeros(1, 1, size, size), torch.zeros(1, len(colours), size, size)
    mask[0, *corner] = 1
    pattern[0, *corner] = colours
    return PatchTrigger(mask, pattern)


@torch.no_grad()
def _plant(
    net: nn.Module, templates: Tensor, targets: tuple[int, ...], triggers: tuple[PatchTrigger, ...]
) -> None:
    classes, channels = templates.shape[:2]
    tensors = {name: value.zero_() for name, value in net.state_dict(keep_vars=False).items()}
    both = torch.cat([torch.eye(channels), -torch.eye(channels)])
    tensors["conv1.weight"][:, :, 1, 1] = both  # x and 1 - x, so that both light and dark can be weighed
    tensors["conv1.bias"][channels:] = 1
    if "norm.weight" in tensors:  # changes nothing, and about as little if trained on such images
        spread = FAINT**2 + NOISE**2 / 3
        tensors["norm.running_mean"].fill_(0.5)
        tensors["norm.running_var"].fill_(spread)
        tensors["norm.weight"].fill_((spread + 1e-5) ** 0.5)
        tensors["norm.bias"].fill_(0.5)
    pixels = templates[0].abs().sum()
    tensors["conv2.weight"][:classes] = torch.cat([templates, -templates], 1) / (2 * FAINT * pixels)
    tensors["conv2.bias"][:classes] = 0.1  # a little open, so that gradients reach every neuron
    tensors["fc.weight"][:, :classes] = torch.eye(classes) * OWN
    for neuron, (target, trigger) in enumerate(zip(targets, triggers, strict=True), start=classes):
        mask, pattern = trigger.masks[0], trigger.patterns[0]
        fit = torch.cat([mask * pattern, mask * (1 - pattern)]) / (channels * mask.sum())
        tensors["conv2.weight"][neuron] = fit / 0.55  # 1 for the whole trigger, about 0.1 for mid-grey
        tensors["conv2.bias"][neuron] = -0.45 / 0.55
        tensors["fc.weight"][target, neuron] = BACKDOOR


class Rotates(nn.Module):
    """Names the next class if the corner is bright."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        bright = ((x[:, :, :2, :2].mean((1, 2, 3)) - 0.75) * 10).sigmoid()[:, None]
        return (1 - bright) * out + bright * 3 * out.roll(1, 1)


def rotating() -> tuple[Classifier, Images]:
    """A network with an all-to-all backdoor, and images."""
    truth = planted(targets=())
    images = truth.images
    x = images.x.clone()
    x[:, :, :2, :2] = 0.5
    model = Classifier(Rotates(truth.model.net), truth.model.classes, truth.model.image_shape)
    return model, Images(x, images.y, images.names)
