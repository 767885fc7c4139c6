"""What is kept of each model of the paper's experiment; each record is one JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Trained:
    """A model that was trained, and what it does on the images to measure on."""

    accuracy: float
    success: float
    """Attack success rate; of a clean model, how often it gives stamped images the target class."""
    target: int
    classes: int
    images: int
    """Training images."""
    poisoned: int
    judged: int
    """Images measured on."""
    cpu_seconds: float
    commit: str
    recipe: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Told:
    """What a scan said."""

    verdict: str
    probability: float
    found: tuple[int, ...]
    """Target classes named, most probable first; empty if the verdict is clean."""
    size: float
    """Of the smallest patch found for any class, in pixels."""
    smallest: int
    """Its class."""
    next_size: float
    """Of the class after it."""
    image_passes: int
    seconds: float
    cpu_seconds: float
    images: int
    """That the scanner had."""


@dataclass(frozen=True)
class Outcome:
    """A repair, measured on images that nobody had."""

    method: str
    """As in `detrigger methods`, or `auto` for the whole loop."""
    images: str
    """What it was fitted on: `training` (20 % of the training images, the paper's setting) or `scanner`."""
    label: str
    """With what matters of its options."""
    accuracy: float
    success: float
    """Of the true trigger."""
    found: float
    """Of the synthesised one."""
    cpu_seconds: float
    rounds: int = 1
    repaired: bool = True
    """False if the guard of the loop let nothing pass; then the model is the original."""


@dataclass(frozen=True)
class Stop:
    """A point of the curve of pruning."""

    share: float
    """Of the neurons pruned."""
    accuracy: float
    success: float
    found: float


@dataclass(frozen=True)
class LayerRow:
    """Pruning one layer until the synthesised trigger fails, measured as an Outcome is."""

    layer: str
    neurons: int
    pruned: int
    accuracy: float
    success: float
    found: float


@dataclass(frozen=True)
class Neurons:
    """Mean activation of the neurons of a layer that the true trigger raises most (top 1 %)."""

    layer: str
    clean: float
    known: float
    found: float
    cosine: float
    overlap: float


@dataclass(frozen=True)
class Alike:
    """The synthesised trigger beside the true one."""

    success_found: float
    success_known: float
    size_found: float
    size_known: float
    mask_overlap: float
    centre_distance: float
    structural_similarity: float
    neurons: tuple[Neurons, ...]


@dataclass(frozen=True)
class Scanned:
    """A scan of one model."""

    told: Told
    megabytes: int
    """Largest memory of the process so far, on Linux."""
    commit: str
    recipe: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Studied:
    """What comes after the scan of a backdoored model: comparison, repairs, pruning step by step."""

    target: int
    alike: Alike | None
    """None if the scan did not name the target."""
    outcomes: tuple[Outcome, ...]
    """Empty, as is what follows, if the scan named nothing."""
    curve: tuple[Stop, ...]
    layers: tuple[LayerRow, ...]
    cpu_seconds: float
    megabytes: int
    """Largest memory of the process so far, on Linux."""
    commit: str
    recipe: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Case:
    """One model of the open points, scanned and repaired."""

    kind: str
    """`size`, `targets` or `triggers`."""
    number: int
    """Side of the trigger in pixels, infected classes, or triggers of one class."""
    seed: int
    targets: tuple[int, ...]
    """One for each trigger."""
    accuracy: float
    success: tuple[float, ...]
    """Per trigger."""
    told: Told
    rounds: int
    """Repairs that the loop accepted."""
    repaired: bool
    last: str
    """Verdict of the last scan."""
    accuracy_after: float
    success_after: tuple[float, ...]
    """Per true trigger, of what the loop gave back."""
    reason: str
    """Why the loop ended."""
    cpu_seconds: float
    commit: str
    recipe: dict[str, Any] = field(repr=False)
