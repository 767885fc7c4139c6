"""The judge of repairs: a candidate that makes the model worse is not returned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GuardConfig:
    """When a repaired model is good enough."""

    accuracy_drop: float = 0.02
    """Clean accuracy that may be lost, as a share of held-out images; 0 to 1."""
    recall_drop: float = 0.10
    """Recall that any one class may lose, as a share of its held-out images; 0 to 1."""
    success: float = 0.05
    """Highest attack success rate that any synthesised trigger may keep on held-out images; 0 to 1."""


@dataclass(frozen=True)
class Judgement:
    """A candidate against the original, on images not used to make it."""

    accepted: bool
    reason: str
    """One sentence: why it was or was not accepted."""
    images: int
    """Held-out images it was judged on."""
    accuracy_before: float
    accuracy_after: float
    recall_drop: dict[str, float]
    """Per class name: recall before minus after; classes without held-out images are left out."""
    success_before: tuple[float, ...]
    """Attack success rate per synthesised trigger, on the original."""
    success_after: tuple[float, ...]
    """The same on the candidate."""
    success_upper95: tuple[float, ...]
    """One-sided 95 % Clopper-Pearson upper bound on `success_after`."""
