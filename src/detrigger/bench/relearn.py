"""Does a repair last? A model is tuned further on clean images with a handful of poisoned ones among them.

The retuning attack of Zhu et al., "Uncovering, explaining, and mitigating the superficial safety of backdoor
defense" (2024): purified models often take their backdoor up again from very few poisoned images.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from detrigger.images import Images
from detrigger.model import Classifier, forward


@dataclass(frozen=True)
class RelearnConfig:
    """How a model is tuned."""

    poisoned: int = 10
    """Poisoned images per planted trigger; 1 or more."""
    epochs: int = 5
    """Over clean and poisoned images; 1 or more."""
    learning_rate: float = 0.01
    """First rate of SGD with momentum 0.9; it falls to zero as a cosine."""
    batch: int = 32
    """Images per step; 2 or more."""


def relearned(
    model: Classifier,
    clean: Images,
    poisoned: Float[Tensor, "m c h w"],
    labels: Int[Tensor, " m"],
    config: RelearnConfig,
    *,
    seed: int,
) -> Classifier:
    """A copy tuned on the clean images and on poisoned ones with the labels an attacker gives them."""
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(model.net).train().requires_grad_(True)
    x, y = torch.cat([clean.x, poisoned]), torch.cat([clean.y, labels])
    sgd = torch.optim.SGD(net.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    steps = config.epochs * -(-len(x) // config.batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    for _ in range(config.epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(config.batch):
            if len(chosen) > 1:  # BatchNorm cannot train on one image
                sgd.zero_grad()
                cross_entropy(forward(model, net, x[chosen]), y[chosen]).backward()
                sgd.step()
                cosine.step()
    return dataclasses.replace(model, net=net)
