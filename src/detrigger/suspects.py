"""Triggers to repair with besides those that were found: of suspect classes, and stronger than need be."""

from __future__ import annotations

from detrigger.heats import InvertConfig, Stage
from detrigger.images import Images
from detrigger.invert import invert
from detrigger.model import Classifier
from detrigger.scan import Backdoor, Scan

CLASSES = 10
"""Classes taken for targets where nothing was found, the most probable first."""

FAMILIES = ("patch", "additive")
"""Kinds of trigger searched for each target, besides those in which one was found."""

SEARCH = InvertConfig(stages=(Stage(40, 16),), success=1.0, weight=0.1, weight_rate=1.0, precision="fp32")
"""The weight of the size is low, and stays so, as the success never quite comes to 1: what is found is far
from the smallest trigger, and nearer to what attackers plant."""


def suspects(model: Classifier, images: Images, scan: Scan, *, seed: int) -> tuple[Backdoor, ...]:
    """What a scan suspects, and strong triggers of the classes it thinks the most probable targets.

    Empty if the scan judged no class.
    """
    ranked = sorted(scan.finding.classes, key=lambda c: -c.probability)[:CLASSES]
    return (*scan.backdoors, *strong(model, images, {c.index: c.probability for c in ranked}, seed=seed))


def strong(
    model: Classifier,
    images: Images,
    probabilities: dict[int, float],
    families: tuple[str, ...] = (),
    *,
    seed: int,
) -> tuple[Backdoor, ...]:
    """A trigger of each family for each target, of which the probabilities are given, made to work well.

    The smallest trigger that works uses a corner of a backdoor; unlearned by it alone, the rest stays.
    """
    targets, found = tuple(probabilities), []
    for family in dict.fromkeys((*FAMILIES, *families)) if targets else ():
        inversion = invert(model, images, targets, family, SEARCH, seed=seed)
        found += [
            Backdoor(
                target=target,
                sources="all",
                family=family,
                trigger=inversion.trigger[i],
                size=inversion.size[i].item(),
                success=inversion.success[i].item(),
                probability=probabilities[target],
            )
            for i, target in enumerate(targets)
        ]
    return tuple(found)
