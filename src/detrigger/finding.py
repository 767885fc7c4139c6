"""The verdict on a model, and what is known of each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["clean", "backdoored", "inconclusive"]

MARGIN = "clean margin"
"""Evidence of every class that needs no trigger."""
CONTROL = "control surprise"
"""How far a class stands out in a control, 0 at least."""


@dataclass(frozen=True)
class ClassFinding:
    """What is known about one class as a possible target. Figures are of the family of the whole finding."""

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
    """By any family."""
    best: str
    """Family by which it is most suspect."""
    probability: float
    """That it is a target, by that family."""
    sources: tuple[int, ...] = ()
    """Classes whose images go to it, if it is most suspect by pairs with single sources; the first most."""
    evidence: dict[str, float] = field(default_factory=dict)
    """`clean margin`; for each family `NAME size`, `NAME success`, `NAME score`, `NAME gap`, `NAME level`,
    `NAME probability`, and `NAME surprise` if a trigger was found; `control surprise`, if a control was
    asked."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one model and the reasons for it."""

    verdict: Verdict
    probability: float
    """That the model is backdoored, in [0, 1]."""
    reasons: tuple[str, ...]
    """One sentence each, the decisive one first."""
    classes: tuple[ClassFinding, ...]
    family: str = "patch"
    """Kind of trigger in which a class stands out most; the classes' figures are of it."""

    @property
    def suspects(self) -> tuple[ClassFinding, ...]:
        """Classes flagged as targets, most suspect first."""
        return tuple(sorted((c for c in self.classes if c.suspect), key=lambda c: -c.probability))
