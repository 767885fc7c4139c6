"""What a scan may spend."""

from __future__ import annotations

import pytest

from detrigger.budgets import BUDGETS, FEWEST, Budget, stages
from detrigger.heats import LEAST
from detrigger.sources import EACH, EVERY


def passes(budget: Budget, kind: str, classes: int) -> float:
    goals = 1 if kind == EVERY else classes
    return sum(
        s.steps * s.images * min(goals, max(LEAST, round(s.share * goals)))
        for s in stages(budget, kind, classes)
    )


def whole(budget: Budget, classes: int) -> float:
    return sum(passes(budget, kind, classes) for kind in BUDGETS[budget])


def test_ten_classes_cost_at_most_twenty_thousand_image_passes() -> None:
    assert whole("standard", 10) < 18_000  # the rest measures success
    assert whole("quick", 10) < 5_000


@pytest.mark.parametrize("classes", [43, 200, 1680])
def test_work_grows_at_most_like_the_number_of_classes_to_the_power_of_seven_tenths(classes: int) -> None:
    assert whole("standard", classes) <= whole("standard", 10) * (classes / 10) ** 0.7


def test_up_to_ten_classes_the_heats_are_those_of_the_table() -> None:
    for budget, plan in BUDGETS.items():
        for kind, heats in plan.items():
            assert stages(budget, kind, 4) == stages(budget, kind, 10) == heats


def test_with_many_classes_every_step_still_sees_some_images() -> None:
    for kind in BUDGETS["standard"]:
        first, *later = stages("standard", kind, 5000)
        assert first.images >= FEWEST and first.steps >= 5
        assert all(0 < s.share < 1 for s in later)


@pytest.mark.parametrize("budget", ["quick", "standard"])
def test_among_the_people_of_lfw_a_class_has_steps_enough_for_its_size_to_be_pressed(budget: Budget) -> None:
    first = stages(budget, "patch", 1680)[0]
    assert first.steps >= 25  # in 18 the average of the success hardly reached what is wanted


def test_a_budget_without_a_kind_has_no_heats_for_it() -> None:
    assert stages("quick", EACH, 10) == ()
