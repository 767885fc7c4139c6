"""The judge of repairs: a candidate that makes the model worse is not returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detrigger import measure
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class GuardConfig:
    """When a repaired model is good enough."""

    accuracy_drop: float = 0.02
    """Clean accuracy that may be lost, as a share of held-out images; 0 to 1."""
    recall_drop: float = 0.10
    """Recall that any one class may lose, as a share of its held-out images; 0 to 1. One image is always
    forgiven, so that a class with few images is not judged by chance alone."""
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


def judge(
    original: Classifier,
    candidate: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: GuardConfig,
) -> Judgement:
    """Compare on held-out images. `triggers` are stacks of one, one per target."""
    before, after = (measure.predictions(m, images.x) for m in (original, candidate))
    accuracy = [(p == images.y).float().mean().item() for p in (before, after)]
    drops, allowed = {}, {}
    recalls = [measure.recalls(p, images.y, len(images.names)) for p in (before, after)]
    for label in images.y.unique().tolist():
        name = images.names[label]
        drops[name] = (recalls[0][label] - recalls[1][label]).item()
        allowed[name] = max(config.recall_drop, 1 / int((images.y == label).sum()))
    hits = [
        [measure.hits(m, images, triggers[i], t) for i, t in enumerate(targets)]
        for m in (original, candidate)
    ]
    success = [tuple(h.float().mean().item() for h in row) for row in hits]
    upper = tuple(measure.upper_bound(int(h.sum()), len(h)) for h in hits[1])
    worst = max(drops, key=lambda name: drops[name] - allowed[name])
    failures = []
    if not all(s <= config.success for s in success[1]):  # NaN, without images to measure on, fails too
        failures.append(
            f"a synthesised trigger still works on {max(success[1]):.1%} of held-out images "
            f"(at most {config.success:.0%} allowed)"
        )
    if accuracy[0] - accuracy[1] > config.accuracy_drop + 1e-6:
        failures.append(
            f"clean accuracy falls from {accuracy[0]:.1%} to {accuracy[1]:.1%} "
            f"(at most {config.accuracy_drop:.1%} allowed)"
        )
    if drops[worst] > allowed[worst] + 1e-6:
        failures.append(
            f"recall of class {worst!r} falls by {drops[worst]:.1%} (at most {allowed[worst]:.1%} allowed)"
        )
    reason = " and ".join(failures) or (
        f"triggers work on at most {max(success[1]):.1%} of held-out images, "
        f"clean accuracy {accuracy[0]:.1%} before and {accuracy[1]:.1%} after"
    )
    return Judgement(
        not failures, reason, len(images), accuracy[0], accuracy[1], drops, success[0], success[1], upper
    )
