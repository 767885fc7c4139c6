"""Repairs: each takes a model and triggers found in it, and returns a changed copy with how it got there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detrigger import measure
from detrigger.images import Images
from detrigger.measure import CurvePoint
from detrigger.model import Classifier
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class Repaired:
    """A candidate; whether it is any good is for the guard to say."""

    model: Classifier
    label: str
    """The method with what matters of its options, e.g. `prune fc:in, 3 of 64 neurons`."""
    curve: tuple[CurvePoint, ...]
    """From the original, step by step, on the images used for fitting."""


def point(
    model: Classifier, images: Images, triggers: Sequence[Trigger], targets: tuple[int, ...], share: float
) -> CurvePoint:
    """Where a repair stands after `share` of its way; without triggers their success is 0."""
    worst = max((measure.success(model, images, triggers[i], t) for i, t in enumerate(targets)), default=0.0)
    return CurvePoint(share, measure.accuracy(model, images), worst)
