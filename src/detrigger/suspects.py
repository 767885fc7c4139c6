"""Triggers to repair with besides those that were found: of suspect classes, and stronger than need be."""

from __future__ import annotations

from detrigger.heats import InvertConfig, Stage
from detrigger.images import Images
from detrigger.invert import invert
from detrigger.model import Classifier
from detrigger.scan import Backdoor, Scan

CLASSES = 3
"""Classes taken for targets besides those found, the most probable first."""

PLAUSIBLE = 0.25
"""Least probability of such a class in a model in which something else was found. What is unlearned in vain
costs accuracy: 1 point for two classes of a CIFAR-10 network."""

FAMILIES = ("patch", "additive")
"""Kinds of trigger searched for each target, besides those in which one was found."""

SMALLEST = InvertConfig(stages=(Stage(60, 16),))
"""For triggers that stand for those of a scan."""

STRONG = InvertConfig(stages=(Stage(40, 16),), success=1.0, weight=0.1, weight_rate=1.0)
"""The weight of the size is low, and stays so, as the success never quite comes to 1: what is found is far
from the smallest trigger, and nearer to what attackers plant."""

STARTS = 3
"""Strong triggers of each kind for each target, from starts of their own: each finds another part of what
the attacker's does."""


def suspects(model: Classifier, images: Images, scan: Scan, *, seed: int) -> tuple[Backdoor, ...]:
    """What a scan suspects, and the smallest triggers of the classes it thinks the most probable targets.

    Empty if the scan judged no class.
    """
    return (*scan.backdoors, *_searched(model, images, likely(scan), FAMILIES, SMALLEST, seed))


def likely(scan: Scan, *, least: float = 0.0) -> dict[int, float]:
    """The most probable targets by a scan, with their probabilities, if these are `least` or more."""
    ranked = sorted(scan.finding.classes, key=lambda c: -c.probability)[:CLASSES]
    return {c.index: c.probability for c in ranked if c.probability >= least}


def strong(
    model: Classifier,
    images: Images,
    probabilities: dict[int, float],
    families: tuple[str, ...] = (),
    *,
    seed: int,
) -> tuple[Backdoor, ...]:
    """`STARTS` triggers per family and target, made to work well; given are the probabilities of targets.

    The smallest trigger that works uses a corner of a backdoor; unlearned by it alone, the rest stays.
    """
    kinds = tuple(dict.fromkeys((*FAMILIES, *families)))
    seeds = range(STARTS * seed, STARTS * (seed + 1))
    return tuple(b for s in seeds for b in _searched(model, images, probabilities, kinds, STRONG, s))


def _searched(
    model: Classifier,
    images: Images,
    probabilities: dict[int, float],
    families: tuple[str, ...],
    config: InvertConfig,
    seed: int,
) -> tuple[Backdoor, ...]:
    targets, found = tuple(probabilities), []
    for family in families if targets else ():
        inversion = invert(model, images, targets, family, config, seed=seed)
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
