"""The field's figures, in one place: accuracy, recall, attack success rate (ASR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import Trigger

BATCH = 256
"""Images per forward pass where no gradient is needed."""


@dataclass(frozen=True)
class CurvePoint:
    """One stop on the way of a repair."""

    share: float
    """Of the neurons pruned, or of the epochs done, in [0, 1]."""
    accuracy: float
    success: float
    """Highest attack success rate of the synthesised triggers."""


def predictions(model: Classifier, x: Float[Tensor, "n c h w"]) -> Int[Tensor, " n"]:
    """Predicted class of each image."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(BATCH)])


def accuracy(model: Classifier, images: Images) -> float:
    """Share of images given their own label (clean accuracy on clean images)."""
    return (predictions(model, images.x) == images.y).float().mean().item()


def recalls(
    predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, " classes"]:
    """Per class, share of its images given its label; NaN for a class without images."""
    right = torch.zeros(classes).index_add_(0, labels.cpu(), (predicted == labels).float().cpu())
    return right / torch.bincount(labels.cpu(), minlength=classes)


def hits(model: Classifier, images: Images, trigger: Trigger, target: int) -> Bool[Tensor, " m"]:
    """For each image not of the target class: is it given the target when stamped with a stack of one?"""
    others = images.x[images.y != target]
    return torch.cat([predictions(model, trigger(part)[0]) == target for part in others.split(BATCH)])


def success(model: Classifier, images: Images, trigger: Trigger, target: int) -> float:
    """Attack success rate: share of images not of the target class that are given it when stamped."""
    return hits(model, images, trigger, target).float().mean().item()


def upper_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound on a rate seen `successes` times in `trials` trials.

    The rate p at which P(X <= successes) falls to 1 - confidence for X binomial (Clopper and Pearson 1934).
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    counts = torch.arange(successes + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    choose = torch.lgamma(n + 1) - torch.lgamma(counts + 1) - torch.lgamma(n - counts + 1)
    for _ in range(60):
        p = torch.tensor((low + high) / 2, dtype=torch.float64)
        below = (choose + counts * p.log() + (n - counts) * (1 - p).log()).logsumexp(0).exp().item()
        low, high = (p.item(), high) if below > 1 - confidence else (low, p.item())
    return high
