"""Triggers of the most suspect classes of a model in which nothing was found, to repair it all the same."""

from __future__ import annotations

from detrigger.heats import InvertConfig, Stage
from detrigger.images import Images
from detrigger.invert import invert
from detrigger.model import Classifier
from detrigger.scan import Backdoor, Scan

CLASSES = 3
"""Classes taken for targets, the most probable first."""

FAMILIES = ("patch", "additive")
"""Kinds of trigger searched for each."""

SEARCH = InvertConfig(stages=(Stage(60, 16),))


def suspects(model: Classifier, images: Images, scan: Scan, *, seed: int) -> tuple[Backdoor, ...]:
    """What a scan suspects, and the smallest triggers of the classes it thinks the most probable targets.

    Empty if the scan judged no class.
    """
    ranked = sorted(scan.finding.classes, key=lambda c: -c.probability)[:CLASSES]
    found = list(scan.backdoors)
    for family in FAMILIES if ranked else ():
        inversion = invert(model, images, tuple(c.index for c in ranked), family, SEARCH, seed=seed)
        found += [
            Backdoor(
                target=c.index,
                sources="all",
                family=family,
                trigger=inversion.trigger[i],
                size=inversion.size[i].item(),
                success=inversion.success[i].item(),
                probability=c.probability,
            )
            for i, c in enumerate(ranked)
        ]
    return tuple(found)
