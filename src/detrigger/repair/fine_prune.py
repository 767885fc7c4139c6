"""Fine-pruning: neurons that clean images leave dormant are silenced, then the rest is fine-tuned.

Liu, Dolan-Gavitt and Garg 2018, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
Networks", section 4. No trigger is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detrigger import measure
from detrigger.images import Images
from detrigger.model import Classifier, channels_last, forward, penultimate, pooled, recorded
from detrigger.repair import Repaired
from detrigger.repair.silencing import silence, silenced
from detrigger.repair.tuning import best_of, descended, parted, trainable
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class FinePruneConfig:
    """How far to prune, and how long to tune."""

    layer: str = ""
    """Layer whose neurons are pruned; empty: the penultimate, which in most networks is the last convolution,
    pooled (Liu et al. 2018: the last convolution)."""
    accuracy_drop: float = 0.04
    """Clean accuracy that pruning alone may cost, as a share of images; 0 to 1 (Liu et al. 2018: 0.04)."""
    stops: int = 50
    """Measurements while pruning at most; with more neurons than this, several go at once."""
    epochs: int = 10
    """Of fine-tuning; 1 or more."""
    learning_rate: float = 0.01
    """First rate of SGD with momentum 0.9; it falls to zero as a cosine."""
    batch: int = 32
    """Images per step."""


def fine_prune(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: FinePruneConfig,
    *,
    seed: int,
) -> Repaired:
    """Prune by rising mean activation on clean images, then tune with those neurons kept silent.

    `triggers`, stacks of one, and their `targets` only help to choose where to stop; there may be none.
    """
    layer = config.layer or penultimate(model)
    ranked = dormancy(model, images, layer).argsort()
    silent = _bearable(model, images, layer, ranked, config)
    fit, select = parted(images, seed=seed)
    label = f"fine-prune {layer}, {silent} of {len(ranked)} neurons, epochs"
    start = silenced(model, layer, ranked[:silent])
    stops = _tuned(start, fit, layer, ranked[:silent], config, torch.Generator().manual_seed(seed))
    return best_of(
        model,
        select,
        triggers,
        targets,
        stops,
        count=config.epochs,
        accuracy_drop=config.accuracy_drop,
        label=label,
    )


def dormancy(model: Classifier, images: Images, layer: str) -> Float[Tensor, " d"]:
    """Per neuron of a layer, mean over clean images of its positive part: low for a dormant one."""
    total = torch.zeros((), device=model.device)
    for part in measure.batches(images.x):
        with torch.no_grad(), recorded(model.net, layer) as seen:
            model(part)
        last = channels_last(model.net, layer)
        total = total + pooled(seen[-1].clamp_min(0), channels_last=last).sum(0)
    return total / len(images)


def _bearable(model: Classifier, images: Images, layer: str, ranked: Tensor, config: FinePruneConfig) -> int:
    """How many neurons may go before too much accuracy is lost."""
    enough = measure.accuracy(model, images) - config.accuracy_drop
    at_once = max(1, -(-len(ranked) // config.stops))
    silent = 0
    while silent + at_once < len(ranked):
        candidate = silenced(model, layer, ranked[: silent + at_once])
        if measure.accuracy(candidate, images) < enough:
            break
        silent += at_once
    return silent


def _tuned(
    start: Classifier,
    fit: Images,
    layer: str,
    silent: Tensor,
    config: FinePruneConfig,
    generator: torch.Generator,
) -> Iterator[nn.Module]:
    """The network after each epoch."""
    net = trainable(start)

    def gradients(chosen: Tensor) -> None:
        cross_entropy(forward(start, net, fit.x[chosen]), fit.y[chosen]).backward()

    return descended(net, len(fit), gradients, config, generator, after=lambda: silence(net, layer, silent))
