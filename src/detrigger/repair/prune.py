"""Pruning: neurons that a trigger raises most are silenced, until the trigger no longer works.

Menisov (2022), "Neutralisation"; Wang et al. (2019), section VI-B. Silencing is done in the weights, so a
pruned model has the same tensors with some rows or columns zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrigger import measure
from detrigger.images import Images
from detrigger.model import Classifier, penultimate
from detrigger.repair import Repaired, point
from detrigger.repair.silencing import silenced
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class PruneConfig:
    """Where and how far to prune."""

    layer: str = ""
    """Layer whose neurons are ranked; empty: the penultimate (its name ends in `:in`)."""
    success: float = 0.02
    """Stop when every synthesised trigger's success on the fitting images is below this; 0 to 1."""
    share: float = 0.9
    """Of the layer's neurons that may be pruned at most; 0 to 1."""
    stops: int = 50
    """Measurements on the way at most; with more neurons than this, several go at once."""
    accuracy_drop: float = 0.2
    """Stop when more clean accuracy than this is lost, as a share of the fitting images; 0 to 1."""


def prune(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: PruneConfig,
) -> Repaired:
    """Silence neurons by falling gap in mean activation, stamped minus clean, the largest over triggers.

    `triggers` are stacks of one, one per target. Raises UsageError for a layer that cannot be pruned.
    """
    layer = config.layer or penultimate(model)
    ranked = gaps(model, images, triggers, targets, layer).argsort(descending=True)
    silent = 0
    curve = [point(model, images, triggers, targets, 0.0)]
    at_once = max(1, -(-len(ranked) // config.stops))
    candidate = model
    while (
        curve[-1].success >= config.success
        and curve[-1].accuracy >= curve[0].accuracy - config.accuracy_drop
        and silent + at_once <= config.share * len(ranked)
    ):
        silent += at_once
        candidate = silenced(model, layer, ranked[:silent])
        curve.append(point(candidate, images, triggers, targets, silent / len(ranked)))
    return Repaired(candidate, f"prune {layer}, {silent} of {len(ranked)} neurons", tuple(curve))


def gaps(
    model: Classifier, images: Images, triggers: Sequence[Trigger], targets: tuple[int, ...], layer: str
) -> Tensor:
    """Per neuron of a layer, mean activation on stamped minus on clean images, the largest over triggers."""
    per_trigger = []
    for i, target in enumerate(targets):
        others = images.x[images.y != target]
        shift = torch.zeros(())
        for part in measure.batches(others):
            stamped = model.activations(triggers[i](part)[0], layer)
            shift = shift + (stamped - model.activations(part, layer)).sum(0)
        per_trigger.append(shift / len(others))
    return torch.stack(per_trigger).amax(0)
