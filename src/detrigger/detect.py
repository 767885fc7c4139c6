"""Evidence per class in, verdict out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["clean", "backdoored", "inconclusive"]


@dataclass(frozen=True)
class ClassFinding:
    """What is known about one class as a possible target."""

    index: int
    name: str
    size: float
    """Of the smallest trigger found, in the unit of its family."""
    log_size_score: float
    """Robust outlier index of log size: how many spreads below the median; large is suspect."""
    p_value: float
    """Chance that a clean model of this many classes has any class with such a score."""
    success: float
    """Attack success rate of the synthesised trigger on held-out images, in [0, 1]."""
    inverted: bool
    """A trigger with enough success was found."""
    suspect: bool
    evidence: dict[str, float] = field(default_factory=dict)
    """Further figures by name."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one model and the reasons for it."""

    verdict: Verdict
    probability: float
    """That the model is backdoored, in [0, 1]."""
    reasons: tuple[str, ...]
    """One sentence each, the decisive one first."""
    classes: tuple[ClassFinding, ...]

    @property
    def suspects(self) -> tuple[ClassFinding, ...]:
        """Classes flagged as targets, most suspect first."""
        return tuple(sorted((c for c in self.classes if c.suspect), key=lambda c: -c.log_size_score))
