"""Figures against other ways to compute them; conditions on records."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from detrigger.bench import figures
from detrigger.bench.where import condition
from detrigger.errors import UsageError

BAD, CLEAN = [0.9, 0.8, 0.8, 0.3], [0.1, 0.8, 0.2, 0.3, 0.05]


def test_the_area_is_that_under_the_roc_curve() -> None:
    curve = np.array(figures.roc_curve(BAD, CLEAN))
    trapezoids = ((curve[1:, 0] - curve[:-1, 0]) * (curve[1:, 1] + curve[:-1, 1]) / 2).sum()
    assert figures.area_under_curve(BAD, CLEAN) == pytest.approx(trapezoids)


def test_the_area_is_the_rank_sum_on_random_scores_with_ties() -> None:
    drawn = random.Random(1)
    bad = [round(drawn.gauss(1, 1), 1) for _ in range(60)]
    clean = [round(drawn.gauss(0, 1), 1) for _ in range(40)]
    both = sorted(bad + clean)
    rank = {score: both.index(score) + (both.count(score) + 1) / 2 for score in both}
    statistic = sum(rank[score] for score in bad) - 60 * 61 / 2
    assert figures.area_under_curve(bad, clean) == pytest.approx(statistic / (60 * 40))


def test_the_interval_of_the_area_is_that_of_its_known_spread_and_depends_on_the_seed_alone() -> None:
    drawn = np.random.default_rng(3)
    bad, clean = drawn.normal(1, 1, 80).tolist(), drawn.normal(0, 1, 80).tolist()
    low, high = figures.area_interval(bad, clean, seed=5)
    assert (low, high) == figures.area_interval(bad, clean, seed=5)
    assert (low, high) != figures.area_interval(bad, clean, seed=6)
    area = figures.area_under_curve(bad, clean)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)  # Hanley and McNeil 1982
    spread = math.sqrt((area * (1 - area) + 79 * (q1 - area**2) + 79 * (q2 - area**2)) / 80**2)
    assert low == pytest.approx(area - 1.96 * spread, abs=0.02)
    assert high == pytest.approx(area + 1.96 * spread, abs=0.02)


def test_separate_scores_leave_the_interval_no_width() -> None:
    assert figures.area_interval([0.9, 0.8], [0.1, 0.2]) == (1.0, 1.0)


def test_the_detection_rate_is_the_best_of_all_thresholds_within_the_false_positive_rate() -> None:
    bad, clean = [0.95, 0.7, 0.7, 0.4], [0.6, 0.7, *[0.1] * 18]
    assert figures.detection_rate_at(0.01, bad, clean) == 0.25
    assert figures.detection_rate_at(0.05, bad, clean) == 0.75
    assert figures.detection_rate_at(0.10, bad, clean) == 1.0
    assert figures.detection_rate_at(0.00, bad, clean) == 0.25


def test_without_models_of_a_kind_figures_are_not_numbers() -> None:
    assert math.isnan(figures.area_under_curve([], CLEAN))
    assert all(map(math.isnan, figures.area_interval(BAD, [])))
    assert math.isnan(figures.detection_rate_at(0.05, [], CLEAN))
    assert math.isnan(figures.brier_score([], []))
    assert math.isnan(figures.calibration_error(figures.reliability([], [])))


def test_brier_score_and_calibration_error_are_as_worked_out_by_hand() -> None:
    probabilities, truth = [0.0, 0.05, 0.95, 1.0, 0.5], [False, True, True, True, False]
    assert figures.brier_score(probabilities, truth) == pytest.approx((0.95**2 + 0.05**2 + 0.25) / 5)
    bins = figures.reliability(probabilities, truth)
    assert [b.count for b in bins] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert (bins[9].probability, bins[9].backdoored) == (pytest.approx(0.975), 1.0)
    by_hand = (2 * abs(0.025 - 0.5) + 1 * abs(0.5 - 0) + 2 * abs(0.975 - 1)) / 5
    assert figures.calibration_error(bins) == pytest.approx(by_hand)


RECORDS = [
    {"id": "a", "attack": "blended", "weak": False, "asr": 1.0, "targets": [3]},
    {"id": "b", "attack": "sig", "weak": True, "asr": 0.4, "targets": [1, 2]},
    {"id": "c"},
]
FIELDS = {"id", "attack", "weak", "asr", "targets"}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('attack == "blended"', "a"),
        ("not weak", "ac"),
        ("attack", "ab"),
        ("asr < 0.85", "b"),
        ("0.3 < asr <= 1", "ab"),
        ("2 in targets or attack == None", "bc"),
        ('id in ["a", "c"] and not weak', "ac"),
        ('id not in ("a", "c")', "b"),
        ("asr > -1 and weak == False", "a"),
    ],
)
def test_a_condition_chooses_records(text: str, ids: str) -> None:
    wanted = condition(text, FIELDS)
    assert "".join(str(r["id"]) for r in RECORDS if wanted(r)) == ids


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "attack.upper() == 'SIG'",
        "id[0] == 'a'",
        "asr + 1 > 1",
        "[i for i in targets]",
        "lambda: 1",
        "attack == ",
        "atack == 'sig'",
        "id is None",
        "f'{id}'",
        "b'x' == id",
    ],
)
def test_what_is_not_a_condition_is_refused_and_not_run(text: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        condition(text, FIELDS)


def test_what_cannot_be_compared_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        condition("attack < 3", FIELDS)(RECORDS[0])
