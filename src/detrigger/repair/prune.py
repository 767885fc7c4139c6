"""Pruning: neurons that a trigger raises most are silenced, until the trigger no longer works.

Menisov (2022), "Neutralisation"; Wang et al. (2019), section VI-B. Silencing is done in the weights, so a
pruned model has the same tensors with some rows or columns zero.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrigger import measure
from detrigger.images import Images
from detrigger.model import Classifier, layers, penultimate
from detrigger.repair import Repaired, point
from detrigger.repair.silencing import silence
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class PruneConfig:
    """Where and how far to prune."""

    layer: str = ""
    """Layer whose neurons are ranked; empty: the penultimate (its name ends in `:in`); `all`: those of every
    layer together, each gap relative to the root mean square gap of its layer."""
    success: float = 0.02
    """Stop when every synthesised trigger's success on the fitting images is below this; 0 to 1."""
    share: float = 0.9
    """Of the neurons that may be pruned at most; 0 to 1."""
    stops: int = 50
    """Measurements on the way at most; with more neurons than this, several go at once."""
    accuracy_drop: float = 0.2
    """Stop when more clean accuracy than this is lost, as a share of the fitting images; 0 to 1."""
    rollback: bool = False
    """Do not stop there, but put the neurons back, exactly, and go on with the next."""


EVERY = "all"
"""Layer that stands for all of them."""

Neurons = tuple[tuple[str, int], ...]
"""Layers and positions in them."""


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
    ranked = _ranked(model, images, triggers, targets, config)
    curve = [point(model, images, triggers, targets, 0.0)]
    least = curve[0].accuracy - config.accuracy_drop
    at_once = max(1, -(-len(ranked) // config.stops))
    candidate, silent = model, Neurons()
    for start in range(0, int(config.share * len(ranked)) - at_once + 1, at_once):
        if not curve[-1].success >= config.success or curve[-1].accuracy < least:  # NaN stops, too
            break
        tried = (*silent, *ranked[start : start + at_once])
        changed = _without(model, tried)
        now = point(changed, images, triggers, targets, len(tried) / len(ranked))
        if now.accuracy >= least or not config.rollback:
            candidate, silent = changed, tried
            curve.append(now)
    where = config.layer or penultimate(model)
    label = f"prune {where}, {len(silent)} of {len(ranked)} neurons"
    return Repaired(candidate, label.replace("prune all,", "prune all layers,"), tuple(curve))


def _ranked(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: PruneConfig,
) -> Neurons:
    """Neurons by falling gap."""
    names = layers(model) if config.layer == EVERY else (config.layer or penultimate(model),)
    scores = [gaps(model, images, triggers, targets, name) for name in names]
    everything = [(name, i) for name, score in zip(names, scores, strict=True) for i in range(len(score))]
    relative = torch.cat([score / (score.square().mean().sqrt() + 1e-12) for score in scores])
    return tuple(everything[i] for i in relative.argsort(descending=True).tolist())


def _without(model: Classifier, neurons: Neurons) -> Classifier:
    """The model with these neurons silenced."""
    net = copy.deepcopy(model.net)
    for name in dict.fromkeys(name for name, _ in neurons):
        silence(net, name, torch.tensor([i for layer, i in neurons if layer == name]))
    return dataclasses.replace(model, net=net)


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
