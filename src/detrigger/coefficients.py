"""What was fitted on models whose truth is known: how far clean ones stand out, and the odds from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from detrigger.evidence import NaturalTerms, Terms
from detrigger.sources import SourceTerms


@dataclass(frozen=True)
class Calibration:
    """From how far the model's most suspect class stands out to the log-odds of a backdoor."""

    intercept: float
    slope: float


@dataclass(frozen=True)
class Coefficients:
    """All that is fitted."""

    families: Mapping[str, Terms]
    sources: SourceTerms
    calibration: Calibration
    control: NaturalTerms
    larger: float
    """How much further clean models stand out, by whatever family, on images larger than a control is asked
    for (`detrigger.evidence.LARGEST`); in spreads."""


@cache
def fitted() -> Coefficients:
    """From coefficients.json, which says whence."""
    stored = json.loads((files("detrigger") / "coefficients.json").read_text(encoding="utf-8"))
    terms = {family: Terms(**t) for family, t in stored["families"].items()}
    return Coefficients(
        terms,
        SourceTerms(**stored["sources"]),
        Calibration(**stored["calibration"]),
        NaturalTerms(**stored["control"]),
        stored["larger"],
    )
