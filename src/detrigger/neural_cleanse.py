"""Neural Cleanse as published, one class at a time: the reference that speed and quality are compared with.

Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019,
with the settings of the authors' published example. Slow on purpose: nothing is batched over classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from detrigger import measure
from detrigger.heats import Goal, Progress, check_numbers
from detrigger.images import Images, split
from detrigger.invert import Inversion, sample
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES


@dataclass(frozen=True)
class NeuralCleanseConfig:
    """The published settings."""

    steps: int = 1000
    """Steps per class at most; each goes once over `images_per_step` images."""
    images_per_step: int = 992
    """31 minibatches of 32; less where fewer images are given."""
    batch: int = 32
    """Images per gradient step."""
    learning_rate: float = 0.1
    """Of Adam (0.5, 0.9)."""
    weight: float = 1e-3
    """First weight of the mask's size, after `patience` successes with none."""
    weight_factor: float = 2.0
    """Up by this, down by its power 1.5."""
    patience: int = 5
    """Successes or failures in a row before the weight changes."""
    success: float = 0.99
    """Attack success rate that counts as success; 0 to 1."""
    stop_patience: int = 25
    """Steps without a smaller mask before a class stops, once the weight has gone both up and down."""
    held_out: float = 0.4
    """Share of the images kept to measure success, as in our own search; 0 to 1."""
    measured: int = 128
    """Held-out images per trigger at most."""


@dataclass
class _Weight:
    """The published controller of the weight of the size."""

    value: float = 0.0
    up: int = 0
    down: int = 0
    went_up: bool = False
    went_down: bool = False

    def update(self, success: float, config: NeuralCleanseConfig) -> None:
        if success >= config.success:
            self.up, self.down = self.up + 1, 0
        else:
            self.up, self.down = 0, self.down + 1
        if self.value == 0 and self.up >= config.patience:
            # as published, the success that sets the weight is also the first of those that raise it
            self.value, self.up = config.weight, 1
            self.went_up = self.went_down = False
        if self.up >= config.patience:
            self.value, self.up, self.went_up = self.value * config.weight_factor, 0, True
        elif self.down >= config.patience:
            self.value, self.down, self.went_down = self.value / config.weight_factor**1.5, 0, True

    @property
    def settled(self) -> bool:
        return self.went_up and self.went_down


def neural_cleanse(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    config: NeuralCleanseConfig,
    *,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> Inversion:
    """Smallest patch trigger for each target class, as published; images as in `invert`."""
    searched, held_out = split(images, (1 - config.held_out, config.held_out), seed=seed)
    passes, found, success = 0, [], []
    for done, target in enumerate(targets, 1):
        parameters, spent = _search(model, searched, target, config, seed)
        trigger = FAMILIES["patch"].build(parameters, images.shape)
        others = sample(held_out, Goal(target), config.measured, seed)
        success.append(measure.success(model, others, trigger, target))
        passes += spent + len(others)
        found.append(parameters)
        progress(done, len(targets))
    trigger = FAMILIES["patch"].build({n: torch.cat([f[n] for f in found]) for n in found[0]}, images.shape)
    return Inversion(
        "patch",
        targets,
        trigger,
        trigger.size(),
        torch.tensor(success),
        torch.ones(len(targets), dtype=torch.long),
        passes,
    )


def _search(
    model: Classifier, images: Images, target: int, config: NeuralCleanseConfig, seed: int
) -> tuple[dict[str, Tensor], int]:
    generator = torch.Generator().manual_seed(seed * 100_003 + target)
    others = images.x[images.y != target]
    mask, pattern = (torch.rand(1, c, *images.shape[1:], generator=generator) for c in (1, images.shape[0]))
    parameters = {
        "mask": mask.logit(eps=1e-3).to(others.device).requires_grad_(),
        "pattern": pattern.logit(eps=1e-3).to(others.device).requires_grad_(),
    }
    best, best_size = {n: p.detach().clone() for n, p in parameters.items()}, float("inf")
    adam = torch.optim.Adam(parameters.values(), lr=config.learning_rate, betas=(0.5, 0.9))
    weight, stale, passes = _Weight(), 0, 0
    for _ in range(config.steps):
        hit, size, seen = 0, 0.0, 0
        order = torch.randperm(len(others), generator=generator)[: config.images_per_step].to(others.device)
        for chosen in order.split(config.batch):
            trigger = FAMILIES["patch"].build(parameters, images.shape)
            logits = model(trigger(others[chosen])[0])
            check_numbers(logits)
            labels = torch.full((len(chosen),), target, device=others.device)
            adam.zero_grad()
            (cross_entropy(logits, labels) + weight.value * trigger.size().sum()).backward()
            adam.step()
            hit += int((logits.argmax(1) == target).sum())
            size += trigger.size().item() * len(chosen)
            seen += len(chosen)
        passes += seen
        success, size = hit / seen, size / seen
        if success >= config.success and size < best_size:
            best, best_size, stale = {n: p.detach().clone() for n, p in parameters.items()}, size, 0
        else:
            stale += 1
        if weight.settled and stale >= config.stop_patience:
            break
        weight.update(success, config)
    check_numbers(*parameters.values())
    return best, passes
