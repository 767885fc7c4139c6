"""Feature-shift tuning (FST): the last layer starts anew and is pushed away from what it was, so that the
features must shift, too.

Min, Qin, Shen and Cheng 2023, "Towards Stable Backdoor Purification through Feature Shift Tuning", eq. 3 and
algorithm 1: cross-entropy plus a weight times the inner product of the new and the old last layer, whose norm
is held at what it was. No trigger is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import INPUT, Classifier, forward, linear_head, penultimate
from detrigger.repair import Repaired
from detrigger.repair.tuning import best_of, descended, parted, trainable
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class FstConfig:
    """How hard the last layer is pushed, and how long."""

    push: float = 0.1
    """Weight of the inner product of the new and the old last layer; 0 or more (Min et al. 2023: 0.2 for
    CIFAR-10, 0.1 for GTSRB)."""
    epochs: int = 20
    """Over the images; 1 or more (Min et al. 2023: 10)."""
    learning_rate: float = 0.01
    """First rate of SGD with momentum 0.9; it falls to zero as a cosine (Min et al. 2023: 0.01)."""
    batch: int = 32
    """Images per step."""
    accuracy_drop: float = 0.05
    """Stops that lost more clean accuracy than this are passed over; 0 to 1."""


def fst(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: FstConfig,
    *,
    seed: int,
) -> Repaired:
    """Tune a copy, BatchNorm in training mode. Raises UsageError if the last layer is not linear.

    `triggers`, stacks of one, and their `targets` only help to choose where to stop; there may be none.
    """
    if not linear_head(model):
        raise UsageError("the last layer is not linear, so it cannot start anew; use another repair")
    fit, select = parted(images, seed=seed)
    return best_of(
        model,
        select,
        triggers,
        targets,
        _tuned(model, fit, config, torch.Generator().manual_seed(seed)),
        count=config.epochs,
        accuracy_drop=config.accuracy_drop,
        label=f"fst push {config.push:g}, epochs",
    )


def _tuned(
    model: Classifier, fit: Images, config: FstConfig, generator: torch.Generator
) -> Iterator[nn.Module]:
    """The network after each epoch."""
    net = trainable(model)
    head = net.get_submodule(penultimate(model).removesuffix(INPUT))
    assert isinstance(head, nn.Linear)
    old = head.weight.detach().clone()
    with torch.no_grad():
        fresh = torch.randn(old.shape, generator=generator).to(old)
        head.weight.copy_(fresh)
        if head.bias is not None:
            head.bias.zero_()

    @torch.no_grad()
    def held() -> None:
        head.weight.mul_(old.norm() / head.weight.norm())

    def gradients(chosen: Tensor) -> None:
        loss = cross_entropy(forward(model, net, fit.x[chosen]), fit.y[chosen])
        (loss + config.push * (head.weight * old).sum()).backward()

    held()
    return descended(net, len(fit), gradients, config, generator, after=held)
