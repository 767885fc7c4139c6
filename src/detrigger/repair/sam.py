"""Sharpness-aware fine-tuning (FT-SAM): the neurons that carry a backdoor have large weights; flat minima do
without them.

Zhu, Wei, Shen, Fan and Wu 2023, "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware
Minimization", eq. 2 to 4: the weights are first moved to where the loss is highest within a ball whose axes
grow with the weights (T = |w|), and the gradient found there is followed. No trigger is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detrigger.images import Images
from detrigger.model import Classifier, forward
from detrigger.repair import Repaired
from detrigger.repair.tuning import best_of, descended, frozen_statistics, parted, trainable
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class SamConfig:
    """How flat, and how long."""

    radius: float = 2.0
    """Of the ball, in units of the weights; 0 is plain fine-tuning (Zhu et al. 2023: 2 for CIFAR-10)."""
    smoothing: float = 0.1
    """Of the labels; 0 to 1 (Zhu et al. 2023: 0.1)."""
    epochs: int = 20
    """Over the images; 1 or more (Zhu et al. 2023: 100)."""
    learning_rate: float = 0.01
    """First rate of SGD with momentum 0.9; it falls to zero as a cosine (Zhu et al. 2023: 0.01)."""
    batch: int = 32
    """Images per step."""
    accuracy_drop: float = 0.05
    """Stops that lost more clean accuracy than this are passed over; 0 to 1."""


def sam(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: SamConfig,
    *,
    seed: int,
) -> Repaired:
    """Fine-tune a copy, BatchNorm in training mode.

    `triggers`, stacks of one, and their `targets` only help to choose where to stop; there may be none.
    """
    fit, select = parted(images, seed=seed)
    return best_of(
        model,
        select,
        triggers,
        targets,
        _tuned(model, fit, config, torch.Generator().manual_seed(seed)),
        count=config.epochs,
        accuracy_drop=config.accuracy_drop,
        label=f"ft-sam radius {config.radius:g}, epochs",
    )


def _tuned(
    model: Classifier, fit: Images, config: SamConfig, generator: torch.Generator
) -> Iterator[nn.Module]:
    """The network after each epoch."""
    net = trainable(model)

    def gradients(chosen: Tensor) -> None:
        def descent() -> None:
            net.zero_grad()
            logits = forward(model, net, fit.x[chosen])
            cross_entropy(logits, fit.y[chosen], label_smoothing=config.smoothing).backward()

        descent()
        steps = ascent(net, config.radius)
        with torch.no_grad(), frozen_statistics(net):
            _add(steps, 1)
            with torch.enable_grad():
                descent()
            _add(steps, -1)

    return descended(net, len(fit), gradients, config, generator)


def ascent(net: nn.Module, radius: float) -> dict[nn.Parameter, Tensor]:
    """For every weight, the step uphill to the ball's surface: radius * w^2 g / || |w| g || (eq. 4)."""
    slopes = {w: w.grad for w in net.parameters() if w.grad is not None}
    norm = torch.stack([(w.abs() * g).norm() for w, g in slopes.items()]).norm()
    return {w: (radius / (norm + 1e-12) * w.square() * g).detach() for w, g in slopes.items()}


@torch.no_grad()
def _add(steps: dict[nn.Parameter, Tensor], sign: int) -> None:
    for weight, step in steps.items():
        weight.add_(step, alpha=sign)
