"""What a scan may spend."""

from __future__ import annotations

import dataclasses
from typing import Literal

from detrigger.heats import Stage
from detrigger.sources import EACH, EVERY

Budget = Literal["quick", "standard", "thorough"]

Plan = dict[str, tuple[Stage, ...]]
"""Heats per family, and per kind of evidence from sources."""

_STANDARD: Plan = {
    "patch": (Stage(40, 6), Stage(32, 8, 0.4), Stage(32, 12, 0.15)),
    "additive": (Stage(24, 6), Stage(20, 8, 0.3)),
    "warp": (Stage(18, 6), Stage(20, 8, 0.3)),
    "colour": (Stage(11, 6), Stage(11, 6, 0.3)),
    "waves": (Stage(36, 6), Stage(24, 8, 0.3)),
    EVERY: (Stage(56, 32),),
}

BUDGETS: dict[Budget, Plan] = {
    "quick": {
        "patch": (Stage(30, 6), Stage(28, 8, 0.4), Stage(20, 8, 0.15)),
        "additive": (Stage(13, 5), Stage(12, 6, 0.3)),
    },
    "standard": _STANDARD,
    # Families go through the same heats: with more steps their sizes are not those that clean models are
    # known by.
    "thorough": {**_STANDARD, EACH: (Stage(40, 10), Stage(60, 14, 0.2))},
}
"""What the search may spend with ten classes; a class costs steps × images image passes in every heat, and so
does each pair of source and target in `EACH`."""

CLASSES = 10
"""Classes for which `BUDGETS` holds."""
FIRST, LATER = -0.23, -0.4
"""With more classes, work per class in the first heat and the share that goes on fall with these powers of
their number, so that all work grows at most like K to the power 0.7."""
FEWEST = 2
"""Images per class and step at least."""


def stages(budget: Budget, kind: str, classes: int) -> tuple[Stage, ...]:
    """Heats for a family, or for sources, in a search over so many classes; none if the budget has none."""
    base = BUDGETS[budget].get(kind, ())
    ratio = max(1.0, classes / CLASSES)
    if kind == EACH:  # all pairs of them
        ratio *= max(1.0, (classes - 1) / (CLASSES - 1))
    if not base or ratio == 1 or kind == EVERY:  # which is one search, however many classes there are
        return base
    first = base[0]
    wanted = first.steps * first.images * ratio**FIRST
    images = max(FEWEST, round(first.images * ratio**FIRST))
    later = [dataclasses.replace(s, share=s.share * ratio**LATER) for s in base[1:]]
    return dataclasses.replace(first, images=images, steps=round(wanted / images)), *later
