"""The loop: scan, repair, rescan, until nothing is found or the rounds are used up."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrigger.measure import CurvePoint
from detrigger.model import Classifier
from detrigger.repair.guard import Judgement
from detrigger.scan import Scan


@dataclass(frozen=True)
class Attempt:
    """One candidate of one round."""

    round: int
    """From 1."""
    method: str
    """With what matters of its options, e.g. `prune fc:in` or `unlearn 10 epochs`."""
    judgement: Judgement
    chosen: bool
    """It became the model that the next round starts from."""
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Cleaning:
    """What the loop did. `model` is the original object if nothing was accepted."""

    model: Classifier
    repaired: bool
    """At least one candidate was accepted."""
    finished: bool
    """The last scan is not `backdoored`."""
    reason: str
    """One sentence: why the loop ended."""
    scans: tuple[Scan, ...] = field(repr=False)
    """The first scan and one rescan per accepted round."""
    attempts: tuple[Attempt, ...]
