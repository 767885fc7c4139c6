"""What a scan may spend."""

from __future__ import annotations

from typing import Literal

from detrigger.heats import Stage
from detrigger.pairs import PAIR

Budget = Literal["quick", "standard", "thorough"]

Plan = dict[str, tuple[Stage, ...]]
"""Heats per family, and for pairs of classes."""

BUDGETS: dict[Budget, Plan] = {
    "quick": {
        "patch": (Stage(30, 6), Stage(30, 8, 0.4)),
        "additive": (Stage(20, 6), Stage(15, 6, 0.3)),
        "warp": (Stage(20, 6), Stage(15, 6, 0.3)),
        "colour": (Stage(15, 6), Stage(10, 6, 0.3)),
    },
    "standard": {
        "patch": (Stage(40, 8), Stage(40, 8, 0.4), Stage(50, 16, 0.15)),
        "additive": (Stage(30, 8), Stage(30, 8, 0.3)),
        "warp": (Stage(30, 8), Stage(30, 8, 0.3)),
        "colour": (Stage(20, 8), Stage(20, 8, 0.3)),
        PAIR: (Stage(16, 4), Stage(20, 6, 0.25), Stage(30, 8, 0.08)),
    },
    "thorough": {
        "patch": (Stage(100, 16), Stage(100, 32, 0.5), Stage(200, 32, 0.2)),
        "additive": (Stage(60, 16), Stage(60, 16, 0.5)),
        "warp": (Stage(60, 16), Stage(60, 16, 0.5)),
        "colour": (Stage(40, 16), Stage(40, 16, 0.5)),
        PAIR: (Stage(30, 6), Stage(40, 8, 0.3), Stage(60, 16, 0.1)),
    },
}
"""What the search may spend; a class costs steps × images image passes in every heat it takes part in."""
