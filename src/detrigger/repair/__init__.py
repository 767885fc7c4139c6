"""Repairs: each takes a model and triggers found in it, and returns a changed copy with how it got there."""

from __future__ import annotations

from dataclasses import dataclass

from detrigger.measure import CurvePoint
from detrigger.model import Classifier


@dataclass(frozen=True)
class Repaired:
    """A candidate; whether it is any good is for the guard to say."""

    model: Classifier
    label: str
    """The method with what matters of its options, e.g. `prune fc:in, 3 of 64 neurons`."""
    curve: tuple[CurvePoint, ...]
    """From the original, step by step, on the images used for fitting."""
