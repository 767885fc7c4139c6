"""Unlearning: a short fine-tuning on clean images and on stamped images with their right labels.

Menisov (2022), "Neutralisation"; Wang et al. (2019), section VI-C. Training decides which weights change.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from detrigger.images import Images
from detrigger.model import Classifier, forward
from detrigger.repair import Repaired, point
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class UnlearnConfig:
    """The paper's recipe by default."""

    epochs: int = 1
    """Over clean and stamped images; 1 or more (Menisov 2022: 1)."""
    clean_share: float = 0.2
    """Of the fitting images that are trained on as they are; 0 to 1 (Menisov 2022: 0.2)."""
    stamped_share: float = 0.2
    """Of the fitting images that are trained on stamped, rightly labelled; 0 to 1 (Menisov 2022: 0.2)."""
    learning_rate: float = 0.01
    """First rate of SGD with momentum 0.9; it falls to zero as a cosine."""
    batch: int = 32
    """Images per step."""


def unlearn(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: UnlearnConfig,
    *,
    seed: int,
) -> Repaired:
    """Fine-tune a copy, BatchNorm in training mode. `triggers` are stacks of one, one per target."""
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(model.net).train().requires_grad_(True)
    x, y = _material(images, triggers, targets, config, generator)
    steps = config.epochs * -(-len(x) // config.batch)
    sgd = torch.optim.SGD(net.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, max(1, steps))
    curve = [point(model, images, triggers, targets, 0.0)]
    for epoch in range(1, config.epochs + 1):
        for chosen in torch.randperm(len(x), generator=generator).split(config.batch):
            if len(chosen) > 1:  # BatchNorm cannot train on one image
                sgd.zero_grad()
                cross_entropy(forward(model, net, x[chosen]), y[chosen]).backward()
                sgd.step()
                cosine.step()
        now = dataclasses.replace(model, net=net)
        curve.append(point(now, images, triggers, targets, epoch / config.epochs))
    label = (
        f"unlearn {config.epochs} epochs, {config.clean_share:.0%} clean + {config.stamped_share:.0%} stamped"
    )
    return Repaired(dataclasses.replace(model, net=net), label.replace("1 epochs", "1 epoch"), tuple(curve))


def _material(
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: UnlearnConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Clean images, and for each trigger stamped images not of its target, all with right labels."""
    count = len(images)
    clean = torch.randperm(count, generator=generator)[: round(config.clean_share * count)]
    x, y = [images.x[clean]], [images.y[clean]]
    for i, target in enumerate(targets):
        others = (images.y != target).nonzero()[:, 0]
        order = torch.randperm(len(others), generator=generator)
        stamped = others[order[: round(config.stamped_share * count / len(targets))]]
        x.append(triggers[i](images.x[stamped])[0])
        y.append(images.y[stamped])
    return torch.cat(x), torch.cat(y)
