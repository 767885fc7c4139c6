"""What repairs that train have in common: a copy that may change, batches, and where to stop."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from detrigger.errors import DataError
from detrigger.images import Images, split
from detrigger.measure import CurvePoint
from detrigger.model import Classifier
from detrigger.repair import Repaired, point
from detrigger.trigger import Trigger

SELECT = 0.2
"""Share of the images that no step sees, by which the best stop is chosen."""
ENOUGH = 30
"""Images that this share must have; with fewer, all images are trained on and chosen by."""


LONGEST = 3.0
"""Norm at which gradients are cut off: networks without normalising layers do not survive longer ones."""


@runtime_checkable
class Schedule(Protocol):
    """Of a descent; the configs of repairs that train have these fields."""

    @property
    def epochs(self) -> int:
        """Over the images."""

    @property
    def learning_rate(self) -> float:
        """First rate of SGD with momentum 0.9; it falls to zero as a cosine."""

    @property
    def batch(self) -> int:
        """Images per step."""


Normalising = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def trainable(model: Classifier) -> nn.Module:
    """A copy of the network in training mode whose weights may change."""
    return copy.deepcopy(model.net).train().requires_grad_(True)


def parted(images: Images, *, seed: int) -> tuple[Images, Images]:
    """Images to train on and images to choose by; the same ones if there are few."""
    try:
        fit, select = split(images, (1 - SELECT, SELECT), seed=seed)
    except DataError:
        return images, images
    return (fit, select) if len(select) >= ENOUGH else (images, images)


def shuffled(count: int, batch: int, generator: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """All positions once, in random order; a last batch of one is left out: BatchNorm cannot train on it."""
    for chosen in torch.randperm(count, generator=generator).split(batch):
        if len(chosen) > 1:
            yield chosen


def descended(
    net: nn.Module,
    count: int,
    gradients: Callable[[Int[Tensor, " b"]], None],
    schedule: Schedule,
    generator: torch.Generator,
    *,
    after: Callable[[], None] = lambda: None,
) -> Iterator[nn.Module]:
    """The network after each epoch of SGD over `count` images; it is one and the same, and goes on changing.

    `gradients` fills in the gradients for the images at some positions; `after` follows each step.
    """
    sgd = torch.optim.SGD(net.parameters(), lr=schedule.learning_rate, momentum=0.9, weight_decay=5e-4)
    steps = schedule.epochs * -(-count // schedule.batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, max(1, steps))
    for _ in range(schedule.epochs):
        for chosen in shuffled(count, schedule.batch, generator):
            sgd.zero_grad()
            gradients(chosen)
            nn.utils.clip_grad_norm_(net.parameters(), LONGEST)
            sgd.step()
            cosine.step()
            after()
        yield net


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Within the block, BatchNorm normalises by the batch, but its running averages stay as they are."""
    layers = [m for m in net.modules() if isinstance(m, Normalising)]
    momenta = [m.momentum for m in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def best_of(
    model: Classifier,
    select: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    stops: Iterable[nn.Module],
    *,
    count: int,
    accuracy_drop: float,
    label: str,
) -> Repaired:
    """The best of `count` stops of a training, measured on images that it does not see.

    Stops that lost more than `accuracy_drop` are passed over. Of the others it is the one with the least
    success of the triggers plus accuracy lost, the latest among equals; without triggers, the latest. If no
    stop is left, it is the model as it was.
    """
    curve: list[CurvePoint] = [point(model, select, triggers, targets, 0.0)]
    best, least = model, badness(curve[0], curve[0])
    chosen = 0
    for number, net in enumerate(stops, 1):
        now = dataclasses.replace(model, net=net)
        curve.append(point(now, select, triggers, targets, number / count))
        bad = badness(curve[0], curve[-1]) if triggers else least
        if bad <= least and curve[-1].accuracy >= curve[0].accuracy - accuracy_drop:
            best, least, chosen = now, bad, number
    return Repaired(best, f"{label}, {chosen} of {count}", tuple(curve))


def badness(start: CurvePoint, now: CurvePoint) -> float:
    """Success of the triggers plus clean accuracy lost since the start."""
    return now.success + max(0.0, start.accuracy - now.accuracy)
