"""Adversarial neuron pruning (ANP): neurons that small changes of the weights turn against clean images are
silenced.

Wu and Wang 2021, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", eq. 4 to 6: a mask in [0, 1]
per neuron is learned against the worst relative change of weights and biases within a box; neurons with the
smallest masks go. No trigger is needed. How many go is decided by accuracy on clean images that no step saw,
never by the success of a trigger, as some published code does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detrigger import measure
from detrigger.images import Images
from detrigger.measure import CurvePoint
from detrigger.model import INPUT, Classifier, forward, layers
from detrigger.repair import Repaired, point
from detrigger.repair.tuning import parted, shuffled
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class AnpConfig:
    """How the masks are learned and how much accuracy pruning may cost."""

    box: float = 0.4
    """Largest relative change of a weight or bias; above 0 (Wu and Wang 2021: 0.4)."""
    natural: float = 0.2
    """Weight of the loss without changes beside that with them; 0 to 1 (Wu and Wang 2021: 0.2)."""
    learning_rate: float = 0.05
    """Of SGD with momentum 0.9 on the masks (Wu and Wang 2021: 0.2, with which many masks end at 0 and cannot
    be told apart)."""
    epochs: int = 10
    """Over the images; 1 or more (Wu and Wang 2021: 2000 steps)."""
    batch: int = 64
    """Images per step."""
    accuracy_drop: float = 0.05
    """Clean accuracy that pruning may cost, as a share of images that no step saw; 0 to 1."""


Masks = dict[str, Float[Tensor, " neurons"]]
"""One number in [0, 1] per neuron of a layer."""


def anp(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: AnpConfig,
    *,
    seed: int,
) -> Repaired:
    """Learn masks, then silence the weights of as many neurons as clean accuracy allows; biases stay.

    `triggers`, stacks of one, and their `targets` only make the curve; there may be none.
    """
    fit, select = parted(images, seed=seed)
    masks = learned_masks(model, fit, config, torch.Generator().manual_seed(seed))
    values = torch.cat(list(masks.values())).sort().values
    enough = measure.accuracy(model, select) - config.accuracy_drop
    best, gone = model, 0
    curve: list[CurvePoint] = [point(model, select, triggers, targets, 0.0)]
    while gone < len(values) - 1:
        count = int((values <= values[gone + gone // 4]).sum())  # finely at first, where it matters
        candidate = pruned(model, masks, float(values[count - 1]))
        curve.append(point(candidate, select, triggers, targets, count / len(values)))
        if curve[-1].accuracy < enough:
            break
        best, gone = candidate, count
    return Repaired(best, f"anp box {config.box:g}, {gone} of {len(values)} neurons", tuple(curve))


def learned_masks(model: Classifier, fit: Images, config: AnpConfig, generator: torch.Generator) -> Masks:
    """Minimise natural * loss + (1 - natural) * loss at the worst change found by one signed step (eq. 6)."""
    net = copy.deepcopy(model.net).train()
    sizes = {name: len(net.get_parameter(f"{name}.weight")) for name in maskable(model)}
    masks = {n: torch.ones(size, device=model.device, requires_grad=True) for n, size in sizes.items()}
    sgd = torch.optim.SGD(masks.values(), lr=config.learning_rate, momentum=0.9)
    for _ in range(config.epochs):
        for chosen in shuffled(len(fit), config.batch, generator):
            x, y = fit.x[chosen], fit.y[chosen]
            change = _worst_change(model, net, masks, x, y, config.box, generator)
            sgd.zero_grad()
            natural, moved = (_loss(model, net, masks, c, x, y) for c in (None, change))
            (config.natural * natural + (1 - config.natural) * moved).backward()
            sgd.step()
            with torch.no_grad():
                for mask in masks.values():
                    mask.clamp_(0, 1)
    return {name: mask.detach() for name, mask in masks.items()}


def maskable(model: Classifier) -> tuple[str, ...]:
    """Layers whose neurons get a mask: all that `layers` names, except the last, which gives the answer."""
    return tuple(name for name in layers(model) if not name.endswith(INPUT))


def pruned(model: Classifier, masks: Masks, threshold: float) -> Classifier:
    """The model with the weights of neurons whose mask is at most `threshold` zero; biases stay."""
    net = copy.deepcopy(model.net)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(f"{name}.weight")[mask <= threshold] = 0
    return dataclasses.replace(model, net=net)


Change = dict[str, tuple[Tensor, Tensor]]
"""Per layer, the relative changes of each neuron's weights and of its bias."""


def _worst_change(
    model: Classifier,
    net: nn.Module,
    masks: Masks,
    x: Tensor,
    y: Tensor,
    box: float,
    generator: torch.Generator,
) -> Change:
    """From a random place in the box, one signed step of its size uphill."""
    starts = [
        (2 * torch.rand(len(mask), generator=generator).to(mask) - 1).mul(box).requires_grad_()
        for mask in masks.values()
        for _ in range(2)
    ]
    start = dict(zip(masks, zip(starts[::2], starts[1::2], strict=True), strict=True))
    fixed = {name: mask.detach() for name, mask in masks.items()}
    slopes = torch.autograd.grad(_loss(model, net, fixed, start, x, y), starts, allow_unused=True)
    ends = [
        (s + box * (torch.zeros_like(s) if g is None else g).sign()).clamp(-box, box).detach()
        for s, g in zip(starts, slopes, strict=True)
    ]
    return dict(zip(masks, zip(ends[::2], ends[1::2], strict=True), strict=True))


def _loss(
    model: Classifier, net: nn.Module, masks: Masks, change: Change | None, x: Tensor, y: Tensor
) -> Tensor:
    """Cross-entropy with weights (mask + change) * w and biases (1 + change) * b."""
    factors = {
        name: (mask + change[name][0], 1 + change[name][1]) if change else (mask, torch.ones_like(mask))
        for name, mask in masks.items()
    }
    with scaled(net, factors):
        return cross_entropy(forward(model, net, x), y)


@contextmanager
def scaled(net: nn.Module, factors: Change) -> Iterator[None]:
    """Within the block, layers work as if each neuron's weights and bias were multiplied by these factors."""

    def hook(layer: nn.Module, _inputs: object, output: Tensor, name: str) -> Tensor:
        shape = (-1,) if isinstance(layer, nn.Linear) else (-1,) + (1,) * (output.ndim - 2)
        weights, biases = (f.reshape(shape) for f in factors[name])
        bias = layer.bias.reshape(shape) if isinstance(layer.bias, Tensor) else output.new_zeros(())
        return (output - bias) * weights + bias * biases

    handles = [net.get_submodule(name).register_forward_hook(partial(hook, name=name)) for name in factors]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
