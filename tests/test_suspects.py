"""Triggers that repairs are made with besides those that were found."""

from __future__ import annotations

import dataclasses

import torch
from planted import planted

from detrigger.finding import ClassFinding
from detrigger.measure import success
from detrigger.scan import Scan, ScanConfig, scan
from detrigger.suspects import CLASSES, PLAUSIBLE, STARTS, likely, strong, suspects


def told(*probabilities: float) -> Scan:
    """A scan that says this of the classes, and found nothing."""
    truth = planted()
    made = scan(truth.model, truth.images, ScanConfig(budget="quick", precision="fp32"))
    classes: tuple[ClassFinding, ...] = tuple(
        dataclasses.replace(made.finding.classes[0], index=i, probability=p)
        for i, p in enumerate(probabilities)
    )
    finding = dataclasses.replace(made.finding, verdict="clean", classes=classes)
    return dataclasses.replace(made, finding=finding, backdoors=())


def test_strong_triggers_work_are_larger_than_the_smallest_and_come_in_every_family() -> None:
    truth = planted()
    made = strong(truth.model, truth.images, {2: 0.9, 4: 0.3}, ("additive", "warp"), seed=0)
    kinds = [(family, target) for family in ("patch", "additive", "warp") for target in (2, 4)]
    assert [(b.family, b.target) for b in made] == kinds * STARTS
    assert [b.probability for b in made] == [0.9, 0.3] * 3 * STARTS
    patch, again = made[0], made[len(kinds)]
    assert not torch.equal(patch.trigger.mask(), again.trigger.mask())
    assert success(truth.model, truth.images, patch.trigger, 2) == 1
    assert patch.size > truth.triggers[0].size().item()  # the smallest that works is half as large


def test_they_depend_on_the_seed_alone() -> None:
    truth = planted()
    first, again, other = (strong(truth.model, truth.images, {2: 1.0}, seed=s)[0].trigger for s in (1, 1, 2))
    assert torch.equal(first.mask(), again.mask()) and not torch.equal(first.mask(), other.mask())


def test_likely_targets_are_the_most_probable_classes_and_no_improbable_ones() -> None:
    found = told(0.0, 0.3, 0.05, 0.9, 0.2, 0.01)
    assert list(likely(found).items()) == [(3, 0.9), (1, 0.3), (4, 0.2)] and CLASSES == 3
    assert likely(told(0.0, 0.3, 0.05, 0.9, 0.02, 0.01), least=PLAUSIBLE) == {3: 0.9, 1: 0.3}


def test_suspects_are_the_smallest_triggers_of_the_likely_targets() -> None:
    truth = planted()
    made = suspects(truth.model, truth.images, told(0.0, 0.1, 0.4, 0.2, 0.0, 0.0), seed=0)
    assert [(b.family, b.target) for b in made] == [(f, t) for f in ("patch", "additive") for t in (2, 3, 1)]
    large = strong(truth.model, truth.images, {2: 0.4}, seed=0)[0]
    assert made[0].size < large.size / 2 and made[0].success >= 0.9
