"""Synthesise, judge, measure again: one model in, one report out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from detrigger.detect import Finding
from detrigger.model import Origin
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class Backdoor:
    """One backdoor that was found."""

    target: int
    sources: Literal["all"] | tuple[int, ...]
    """Classes whose images it takes."""
    family: str
    trigger: Trigger = field(repr=False)
    """A stack of one."""
    size: float
    success: float
    """On held-out images, fp32."""
    probability: float


@dataclass(frozen=True)
class Cost:
    """What a scan took."""

    seconds: float
    cpu_seconds: float
    image_passes: int
    """Images sent forward (and, while searching, backward) through the network."""
    device: str
    precision: str


@dataclass(frozen=True)
class Scan:
    """Everything a scan found out."""

    finding: Finding
    backdoors: tuple[Backdoor, ...]
    family: str
    triggers: Trigger = field(repr=False)
    """The synthesised trigger of every class scanned, in the order of `finding.classes`."""
    origin: Origin
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    data_path: str
    data_sha256: str
    images: int
    accuracy: float
    """Clean accuracy on the data given."""
    recalls: tuple[float, ...]
    """Per class; NaN for a class without images."""
    cost: Cost
    seed: int
    config: dict[str, Any]
