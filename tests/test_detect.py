"""From sizes to a verdict."""

from __future__ import annotations

import dataclasses
import json
import math
from importlib.resources import files
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation
from torch import Tensor

from detrigger.coefficients import Calibration, fitted
from detrigger.detect import PLAIN, DetectConfig, _suspects, detect
from detrigger.evidence import (
    FURTHEST,
    INDEX_CAP,
    MARGIN_RANGE,
    Clean,
    Natural,
    Terms,
    clean_answers,
    comparable,
)
from detrigger.finding import CONTROL, Finding
from detrigger.invert import Inversion
from detrigger.outliers import family_wise_p_values, gaps, outlier_index
from detrigger.sources import EACH, EVERY, RATIO_CAP, SourceTerms, each_surprise, every_targets, pairs
from detrigger.trigger import FAMILIES
from detrigger.trigger.patch import PatchTrigger

CONFIG = DetectConfig()
SHAPE = (3, 32, 32)
"""Of images for which a patch of 61 pixels is typical, and 30 grey levels added."""
SIZES = st.lists(st.floats(1.0, 500.0), min_size=2, max_size=20)


def found(
    sizes: list[float],
    success: list[float] | None = None,
    targets: tuple[int, ...] = (),
    family: str = "patch",
) -> Inversion:
    k = len(sizes)
    trigger = PatchTrigger(torch.zeros(k, 1, 4, 4), torch.zeros(k, 3, 4, 4))
    rates = torch.tensor(success or [1.0] * k)
    heats = torch.ones(k, dtype=torch.long)
    size = torch.tensor(sizes).float()
    return Inversion(family, targets or tuple(range(k)), trigger, size, rates, heats, 100)


def named(*inversions: Inversion) -> dict[str, Inversion]:
    return {inversion.family: inversion for inversion in inversions}


def names(k: int) -> tuple[str, ...]:
    return tuple(f"kind {i}" for i in range(k))


def verdict(sizes: list[float], success: list[float] | None = None, config: DetectConfig = CONFIG) -> Finding:
    return detect(named(found(sizes, success)), names(len(sizes)), SHAPE, config)


def reference_index(sizes: list[float], *, log: bool, floor: float) -> np.ndarray:
    """Menisov (2022) and Wang et al. (2019), from numpy and scipy."""
    value = np.log(sizes) if log else np.asarray(sizes)
    middle = np.median(value)
    least = floor if log else floor * abs(middle)
    return (middle - value) / max(1.4826 * float(median_abs_deviation(value)), least)


def index(sizes: list[float], *, log: bool = True, floor: float = 0.25) -> Tensor:
    return outlier_index(torch.tensor(sizes, dtype=torch.float64), log=log, floor=floor)


@given(SIZES, st.booleans(), st.sampled_from([1e-3, 0.25]))
def test_the_outlier_index_is_that_of_numpy_and_scipy(sizes: list[float], log: bool, floor: float) -> None:
    expected = reference_index(sizes, log=log, floor=floor)
    assert np.allclose(index(sizes, log=log, floor=floor), expected, rtol=1e-9, atol=1e-9)


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert index([1, 2, 4, 5], log=False, floor=1e-3).tolist() == pytest.approx(
        [(3 - v) / (1.4826 * 1.5) for v in (1, 2, 4, 5)]
    )


@given(SIZES, st.floats(0.1, 10))
def test_the_log_index_and_the_gaps_do_not_depend_on_the_unit(sizes: list[float], unit: float) -> None:
    scaled = [s * unit for s in sizes]
    assert torch.allclose(index(scaled), index(sizes), atol=1e-6)
    a, b = (gaps(torch.tensor(v, dtype=torch.float64)) for v in (scaled, sizes))
    assert sorted(a.tolist()) == pytest.approx(sorted(b.tolist()), abs=1e-6)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 500), min_size=2, max_size=12, unique=True), st.randoms())
def test_the_order_of_classes_does_not_matter(sizes: list[int], random: Random) -> None:
    order = list(range(len(sizes)))
    random.shuffle(order)
    a = verdict([float(s) for s in sizes])
    b = verdict([float(sizes[i]) for i in order])
    assert a.verdict == b.verdict and a.probability == pytest.approx(b.probability)
    for position, i in enumerate(order):
        one, other = b.classes[position], a.classes[i]
        assert one.size == other.size and one.suspect == other.suspect
        assert one.log_size_score == pytest.approx(other.log_size_score)
        assert one.p_value == pytest.approx(other.p_value, abs=1e-3)
        assert one.evidence == pytest.approx(other.evidence)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(50, 500), min_size=5, max_size=12))
def test_a_smaller_trigger_never_makes_a_backdoor_less_probable(others: list[float]) -> None:
    falling = [verdict([size, *others]).probability for size in (49, 40, 30, 20, 10, 5, 2, 1)]
    assert falling == pytest.approx(sorted(falling), abs=1e-9)
    assert falling[-1] > falling[0]


def test_one_small_trigger_among_many_is_a_backdoor() -> None:
    finding = verdict([50, 52, 48, 3, 55, 51, 49, 47, 53, 50])
    assert finding.verdict == "backdoored" and finding.probability > 0.99
    assert [s.index for s in finding.suspects] == [3]
    target = finding.classes[3]
    assert target.name == "kind 3" and target.size == 3 and target.inverted and target.p_value < 0.01
    assert target.log_size_score == pytest.approx(
        reference_index([50, 52, 48, 3, 55, 51, 49, 47, 53, 50], log=True, floor=0.25)[3], rel=1e-6
    )
    assert target.evidence["patch gap"] == pytest.approx(math.log(47 / 3), rel=1e-6)
    assert finding.reasons[0].startswith(
        "class 'kind 3' needs a patch trigger of 3.0 pixels, the next class needs 47.0"
    )


def test_a_large_trigger_is_not_a_backdoor() -> None:
    finding = verdict([50, 52, 48, 900, 55, 51, 49, 47, 53, 50])
    assert finding.verdict == "clean" and not finding.suspects


def test_every_small_trigger_is_suspect_the_most_suspect_first() -> None:
    finding = verdict([50, 4, 48, 3, 55, 51, 49, 47, 53, 50])
    assert finding.verdict == "backdoored" and [s.index for s in finding.suspects] == [3, 1]


def test_equal_sizes_have_index_nought_and_are_clean() -> None:
    for config in (CONFIG, PLAIN):
        finding = verdict([30.0] * 7, config=config)
        assert finding.verdict == "clean" and finding.probability < 0.01
        assert [c.log_size_score for c in finding.classes] == [0] * 7
        assert [c.p_value for c in finding.classes] == [1] * 7


def test_sizes_between_yes_and_no_are_inconclusive_with_suspects() -> None:
    sizes = [50.0, 52, 48, 0, 55, 51, 49, 47, 53, 50]
    seen = []
    for size in np.geomspace(47, 3, 60):
        sizes[3] = float(size)
        finding = verdict(sizes)
        seen.append(finding.verdict)
        assert bool(finding.suspects) == (finding.verdict != "clean")
        doubt, alarm = CONFIG.doubt, CONFIG.alarm
        limits = {"clean": (0, doubt), "inconclusive": (doubt, alarm), "backdoored": (alarm, 1)}
        low, high = limits[finding.verdict]
        assert low <= finding.probability <= high
    assert list(dict.fromkeys(seen)) == ["clean", "inconclusive", "backdoored"]


def test_two_classes_are_judged_by_their_gap_alone() -> None:
    finding = verdict([3, 50])
    assert finding.classes[0].log_size_score == pytest.approx(1 / 1.4826)
    assert verdict([30, 50]).classes[0].log_size_score < finding.classes[0].log_size_score + 1e-9
    assert "with two classes only the gap between their sizes can be judged" in finding.reasons
    assert finding.probability > verdict([10, 50]).probability
    assert verdict([30, 50]).verdict == "clean"


def test_one_class_alone_is_inconclusive() -> None:
    finding = verdict([3.0])
    assert finding.verdict == "inconclusive" and finding.reasons == (
        "one class alone cannot be compared with others",
    )


def test_no_class_inverted_is_inconclusive() -> None:
    finding = verdict([3, 50, 60, 70, 80], [0.1, 0.2, 0.3, 0.74, 0.0])
    assert finding.verdict == "inconclusive" and "no class could be inverted" in finding.reasons[0]
    assert not finding.suspects and not any(c.inverted for c in finding.classes)


def test_a_class_that_was_not_inverted_counts_as_the_largest() -> None:
    sizes, rates = [50.0, 52, 48, 2, 55, 51, 70], [1.0, 1, 1, 0.3, 1, 1, 1]
    finding = verdict(sizes, rates)
    assert finding.verdict == "clean" and not finding.classes[3].inverted
    assert finding.classes[3].size == 2  # what was found is told all the same
    expected = reference_index([50, 52, 48, 70, 55, 51, 70], log=True, floor=0.25)
    assert [c.log_size_score for c in finding.classes] == pytest.approx(expected.tolist(), rel=1e-5)
    assert "1 of 7 classes could not be reached by patch triggers" in finding.reasons


def test_an_inverted_target_among_classes_that_were_not_is_found() -> None:
    finding = verdict([3, 50, 52, 51, 49, 60], [1.0, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert finding.verdict == "backdoored" and [s.index for s in finding.suspects] == [0]
    assert "no other class could be reached so" in finding.reasons[0]


def test_classes_keep_their_own_index_and_name_when_only_some_are_scanned() -> None:
    finding = detect(named(found([50, 3, 51, 49], targets=(9, 4, 2, 7))), names(10), SHAPE, CONFIG)
    assert [c.index for c in finding.classes] == [9, 4, 2, 7]
    assert [c.name for c in finding.classes] == ["kind 9", "kind 4", "kind 2", "kind 7"]
    assert finding.suspects[0].index == 4


def test_the_plain_rule_alarms_at_an_index_of_two() -> None:
    base = [40.0, 45, 50, 55, 60, 65]
    for size in np.linspace(1, 40, 79):
        sizes = [float(size), *base]
        score = reference_index(sizes, log=False, floor=1e-3).max()
        if abs(score - 2) > 1e-3:
            assert verdict(sizes, config=PLAIN).verdict == ("backdoored" if score > 2 else "clean")


def test_gaps_are_the_steps_above_the_smallest_third() -> None:
    sizes = torch.tensor([8.0, 1, 16, 2, 64, 32, 128, 256, 512], dtype=torch.float64)
    # ranks: 1, 2, 8 are the smallest third; steps in log2 are 1, 2 (to 8), 1 (to 16)
    expected = torch.zeros(9, dtype=torch.float64)
    expected[1], expected[3], expected[0] = 2, 2, 1
    assert torch.allclose(gaps(sizes) / math.log(2), expected)
    assert gaps(torch.tensor([5.0])).tolist() == [0]


@pytest.mark.parametrize(("finalists", "gap"), [(1, 3), (14, 3), (15, 0.0)])
def test_a_step_above_more_targets_than_are_ever_planted_is_no_gap(finalists: int, gap: float) -> None:
    """Of 100 classes so many passed all heats."""
    sizes = torch.full((100,), 80.0, dtype=torch.float64)
    sizes[:finalists] = 10.0
    got = gaps(sizes) / math.log(2)
    assert got[:finalists].tolist() == pytest.approx([gap] * finalists) and not got[finalists:].any()


@pytest.mark.parametrize(("k", "log"), [(5, True), (10, True), (10, False), (43, True)])
def test_p_values_are_those_of_an_independent_simulation(k: int, log: bool) -> None:
    floor, draws = (0.25 if log else 1e-3), 20_000
    random = np.random.default_rng(11)
    value = random.normal(0, 0.35, (draws, k))
    value = value if log else np.exp(value)
    middle = np.median(value, axis=1, keepdims=True)
    spread = 1.4826 * median_abs_deviation(value, axis=1)[:, None]
    spread = np.maximum(spread, floor if log else floor * np.abs(middle))
    highest = ((middle - value) / spread).max(1)
    asked = np.quantile(highest, [0.05, 0.3, 0.5, 0.8, 0.95, 0.99])
    asked = np.concatenate([asked, np.zeros(k)])[:k]
    got = family_wise_p_values(torch.tensor(asked), log=log, floor=floor)
    expected = (highest[None] >= asked[:, None]).mean(1)
    error = 4 * np.sqrt(expected * (1 - expected) * (1 / draws + 1 / 4000)) + 1 / 4000
    assert (np.abs(got.numpy() - expected) <= error).all()


def test_p_values_know_the_number_of_classes_and_never_vanish() -> None:
    few, many = (family_wise_p_values(torch.full((k,), 2.5), log=True, floor=0.25)[0] for k in (5, 100))
    assert many > few
    extreme = family_wise_p_values(torch.full((5,), 1e9), log=True, floor=0.25)
    assert extreme.tolist() == pytest.approx([1 / 4001] * 5)
    ladder = family_wise_p_values(torch.linspace(-3, 8, 30), log=True, floor=0.25)
    assert (ladder.diff() <= 0).all() and ladder[0] == 1


# Several families, and how evidence becomes a probability

ORDINARY = {
    "patch": [50.0, 52, 48, 45, 55, 51, 49, 47, 53, 50],
    "additive": [30.0, 33, 29, 31, 35, 32, 28, 34, 30, 31],
    "warp": [4.0, 4.4, 4.2, 3.8, 4.8, 4.6, 4.0, 4.2, 4.4, 4.2],
    "colour": [60.0, 66, 58, 62, 70, 64, 56, 68, 60, 62],
    "waves": [90.0, 96, 88, 92, 99, 94, 86, 98, 90, 92],
}


def answers(margins: list[float]) -> Clean:
    """Clean images of every class are as far from each target as that."""
    return Clean(torch.tensor([margins] * len(margins), dtype=torch.float64), torch.ones(1, dtype=torch.bool))


def several(**changed: dict[int, float]) -> Finding:
    """On ordinary sizes in every family, but for some classes' in some."""
    inversions = []
    for family, ordinary in ORDINARY.items():
        sizes = list(ordinary)
        for i, size in changed.get(family, {}).items():
            sizes[i] = size
        inversions.append(found(sizes, family=family))
    return detect(named(*inversions), names(10), SHAPE, CONFIG)


def test_ordinary_sizes_in_every_family_are_clean() -> None:
    assert set(ORDINARY) == set(FAMILIES)
    finding = several()
    assert finding.verdict == "clean" and finding.probability < 0.3 and not finding.suspects


@pytest.mark.parametrize("family", FAMILIES)
def test_a_class_that_stands_out_in_one_family_alone_is_found_and_told_in_its_figures(family: str) -> None:
    small = ORDINARY[family][6] / 30
    finding = several(**{family: {6: small}})
    assert finding.verdict == "backdoored" and finding.family == family
    (suspect,) = finding.suspects
    sizes = [s if i != 6 else small for i, s in enumerate(ORDINARY[family])]
    assert (suspect.index, suspect.best, suspect.inverted) == (6, family, True)
    assert [c.size for c in finding.classes] == pytest.approx(sizes)
    score = reference_index(sizes, log=True, floor=0.25)
    assert [c.log_size_score for c in finding.classes] == pytest.approx(score.tolist(), rel=1e-4)
    assert suspect.p_value < 0.01 and suspect.probability <= finding.probability
    noun = (
        f"{'an' if family == 'additive' else 'a'} {family} trigger of {small:.1f} {FAMILIES[family].unit()}"
    )
    assert finding.reasons[0].startswith(f"class 'kind 6' needs {noun}, the next class needs ")
    figures = ("size", "success", "score", "gap", "level", "probability", "surprise")
    everything = [f"{f} {figure}" for f in ORDINARY for figure in figures]
    for i, c in enumerate(finding.classes):
        assert list(c.evidence) == ["clean margin", *everything]
        for f, ordinary in ORDINARY.items():
            assert c.evidence[f"{f} size"] == pytest.approx(small if (f, i) == (family, 6) else ordinary[i])
        highest = max(ORDINARY, key=lambda f: c.evidence[f"{f} probability"])
        assert c.best == highest and c.probability == c.evidence[f"{highest} probability"]
        assert c.suspect == (c.probability >= CONFIG.alarm)


def test_beside_a_sure_class_one_is_suspect_by_a_patch_from_a_lower_probability() -> None:
    def patches(first: float, second: float) -> Finding:
        return several(patch={2: first, 7: second})

    beside = next(s for s in np.geomspace(2, 30, 200) if patches(1.0, s).classes[7].probability < 0.5)
    finding = patches(1.0, float(beside))
    assert [c.index for c in finding.suspects] == [2, 7] and finding.classes[7].best == "patch"
    low = next(s for s in np.geomspace(2, 60, 200) if patches(1.0, s).classes[7].probability < CONFIG.further)
    assert [c.index for c in patches(1.0, float(low)).suspects] == [2]


@pytest.mark.parametrize(("low", "suspects"), [(3, [2, 3, 4, 5]), (4, [2, 3, 4, 5, 6]), (5, [2])])
def test_where_many_classes_stand_out_a_little_only_those_that_are_sure_are_suspect(
    low: int, suspects: list[int]
) -> None:
    kinds = ("patch", "warp")
    own = torch.tensor([0.1, 0.2, 0.9, *[0.5] * low, *[0.1] * (7 - low)], dtype=torch.float64)
    chance = torch.stack([own, torch.zeros_like(own)])
    assert [i for i, suspect in enumerate(_suspects(kinds, chance, CONFIG)) if suspect] == suspects
    chance[:, 2] = 0.59  # nothing is sure: the likeliest alone is suspect, in doubt
    assert [i for i, suspect in enumerate(_suspects(kinds, chance, CONFIG)) if suspect] == [2]


def test_beside_a_sure_class_no_other_family_makes_one_suspect_from_a_lower_probability() -> None:
    for size in np.geomspace(2, 60, 60):
        finding = several(patch={2: 1.0}, additive={5: float(size)})
        if CONFIG.further <= finding.classes[5].probability < CONFIG.alarm:
            break
    assert finding.classes[5].best == "additive" and finding.classes[5].probability >= CONFIG.further
    assert [c.index for c in finding.suspects] == [2]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_images_larger_than_a_control_is_asked_for_classes_must_stand_out_further(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {family: {6: ORDINARY[family][6] / 2}}
    usual = several(**changed)
    monkeypatch.setattr("detrigger.detect.LARGEST", SHAPE[1] - 1)
    larger = several(**changed)
    assert larger.probability < usual.probability and fitted().larger > 0
    for a, b in zip(usual.classes, larger.classes, strict=True):
        for f in FAMILIES:
            difference = a.evidence[f"{f} surprise"] - b.evidence[f"{f} surprise"]
            assert difference == pytest.approx(fitted().larger)
    plain = [detect(named(found([50, 52, 9, 55])), names(4), SHAPE, PLAIN)]
    monkeypatch.undo()
    plain.append(detect(named(found([50, 52, 9, 55])), names(4), SHAPE, PLAIN))
    assert plain[0] == plain[1]


def test_classes_may_be_suspect_by_different_families_and_the_most_suspect_decides() -> None:
    finding = several(patch={2: 1.0}, additive={5: 12.0})
    first, second = finding.suspects
    assert (first.index, first.best, second.index, second.best) == (2, "patch", 5, "additive")
    assert finding.family == "patch" and second.size == ORDINARY["patch"][5]
    finding = several(patch={2: 14.0}, additive={5: 0.5})
    assert finding.family == "additive" and finding.suspects[0].index == 5


def test_the_kind_of_trigger_in_which_any_class_stands_out_furthest_decides() -> None:
    for finding in (several(), several(warp={1: 1.2}), several(patch={2: 14.0}, additive={5: 12.0})):
        by_family = [c.evidence[f"{family} probability"] for family in ORDINARY for c in finding.classes]
        assert finding.probability == max(by_family)


def test_the_order_of_families_does_not_matter() -> None:
    inversions = [found(sizes, family=family) for family, sizes in ORDINARY.items()]
    one, other = (detect(named(*each), names(10), SHAPE, CONFIG) for each in (inversions, inversions[::-1]))
    assert (one.verdict, one.reasons, one.family) == (other.verdict, other.reasons, other.family)
    for a, b in zip(one.classes, other.classes, strict=True):
        assert a.evidence == pytest.approx(b.evidence) and (a.best, a.suspect) == (b.best, b.suspect)


def test_a_family_that_inverts_no_class_hides_nothing_and_is_told_of() -> None:
    small = [*ORDINARY["patch"][:-1], 2.0]
    none = found(ORDINARY["warp"], [0.1] * 10, family="warp")
    for inversions in ([none, found(small)], [found(small), none]):
        finding = detect(named(*inversions), names(10), SHAPE, CONFIG)
        assert finding.verdict == "backdoored" and finding.family == "patch"
        assert [c.index for c in finding.suspects] == [9]
        assert all(c.evidence["warp probability"] == 0 for c in finding.classes)
    other = dataclasses.replace(none, family="colour")
    assert detect(named(none, other), names(10), SHAPE, CONFIG).verdict == "inconclusive"


def test_the_probability_is_the_logistic_of_the_terms_and_the_index_counts_up_to_its_cap() -> None:
    terms = Terms(index=0.5, gap=0.25, level=0.125, margin=0.75, clean=1.5, spread=2.0)
    config = DetectConfig(terms=terms, calibration=Calibration(intercept=-1.0, slope=3.0))
    for smallest in (20.0, 0.01):
        sizes = [smallest, 50, 52, 48, 51, 49, 50]
        clean = answers([-8.8, -10, -9, -11, -10, -9, -11])
        assert clean.near()[0] == pytest.approx(1.2 / 1.4826)
        finding = detect(named(found(sizes)), names(7), SHAPE, config, clean=clean)
        score = reference_index(sizes, log=True, floor=0.25)[0]
        assert (score > INDEX_CAP) == (smallest < 1)
        level = -math.log(smallest / (0.06 * 32 * 32))
        gap = math.log(48 / smallest)
        weighted = 0.5 * min(score, INDEX_CAP) + 0.25 * gap + 0.125 * level + 0.75 * 1.2 / 1.4826
        odds = -1 + 3 * (weighted - 1.5) / 2
        assert finding.probability == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-5)


def test_the_level_is_relative_to_the_size_that_is_typical_for_the_shape() -> None:
    small, large = (
        detect(named(found([20.0] * 6)), names(6), (3, side, side), CONFIG).probability for side in (16, 64)
    )
    assert small < large  # 20 pixels are much for 16×16 and little for 64×64


def test_the_shipped_coefficients_are_whole_and_finite_and_never_reward_a_larger_trigger() -> None:
    stored = json.loads((files("detrigger") / "coefficients.json").read_text("utf-8"))
    assert set(stored) == {"fitted_on", "families", "sources", "calibration", "control", "larger"}
    assert stored["fitted_on"]
    known = fitted()
    assert set(known.families) == set(FAMILIES)
    assert {f: vars(t) for f, t in known.families.items()} == stored["families"]
    assert vars(known.sources) == stored["sources"] and vars(known.calibration) == stored["calibration"]
    assert vars(known.control) == stored["control"]
    for terms in (*known.families.values(), known.sources, known.calibration, known.control):
        assert all(isinstance(v, float) and math.isfinite(v) for v in vars(terms).values())
        assert all(
            v >= 0 for name, v in vars(terms).items() if "intercept" not in name and "clean" not in name
        )


def raced(sizes: list[float], heats: list[int], early: list[float], success: list[float]) -> Tensor:
    inversion = dataclasses.replace(
        found(sizes, success), heats=torch.tensor(heats), early=torch.tensor(early).float()
    )
    return comparable(inversion, inversion.success >= 0.75)


def test_a_class_that_left_the_race_is_taken_to_shrink_as_the_median_finalist_did() -> None:
    sizes = raced([10, 20, 30, 90, 80], [2, 2, 2, 1, 1], [40, 40, 120, 90, 400], [1.0] * 5)
    # finalists shrank to 1/4, 1/2, 1/4; 90 would become 22.5 and 400 would become 100
    assert sizes.tolist() == pytest.approx([10, 20, 30, 22.5, 100])


def test_a_class_that_left_the_race_is_not_taken_to_be_smaller_than_the_median_finalist() -> None:
    sizes = raced([10, 20, 30, 41], [2, 2, 2, 1], [40, 80, 120, 41], [1.0] * 4)
    assert sizes.tolist() == pytest.approx([10, 20, 30, 20])


def test_classes_that_failed_or_had_no_trigger_count_as_the_largest() -> None:
    sizes = raced([10, 20, 3, 90, 7], [2, 2, 2, 1, 1], [40, 80, 9, 200, math.inf], [1, 1, 0.2, 1, 0.1])
    # 3 ran to the end and failed: as large as any; 7 had no trigger: as large as the largest guess
    assert sizes.tolist() == pytest.approx([10, 20, 90, 50, 90])
    assert raced([10, 20], [1, 1], [10, 20], [0.1, 0.2]).tolist() == [20, 20]


# Controls


def inversions(changed: dict[int, float], family: str = "additive") -> dict[str, Inversion]:
    """Of the ordinary sizes, but for some classes of one family."""
    told = {f: list(ordinary) for f, ordinary in ORDINARY.items()}
    for i, size in changed.items():
        told[family][i] = size
    return named(*(found(sizes, family=f) for f, sizes in told.items()))


def beside(scanned: dict[int, float], control: dict[int, float], family: str = "additive") -> Finding:
    natural = Natural(inversions(control, family), answers([-10.0] * 10))
    clean = answers([-10.0] * 10)
    return detect(inversions(scanned), names(10), SHAPE, CONFIG, clean=clean, natural=natural)


def test_a_class_that_stands_out_in_a_control_too_is_less_suspect() -> None:
    alone = detect(inversions({6: 12.0}), names(10), SHAPE, CONFIG, clean=answers([-10.0] * 10))
    natural, other, nothing = (beside({6: 12.0}, shown) for shown in ({6: 9.0}, {2: 9.0}, {}))
    assert natural.probability < 0.4 < 0.6 < nothing.probability
    assert natural.verdict == "clean" and alone.verdict == nothing.verdict == "backdoored"
    assert other.classes[6].probability == pytest.approx(nothing.classes[6].probability)


def test_what_a_control_shows_by_another_family_counts_as_well() -> None:
    assert beside({6: 9.0}, {6: 3.0}, "patch").probability < beside({6: 9.0}, {}).probability


def test_what_a_control_shows_is_told_of_every_class() -> None:
    shown, nothing = beside({6: 9.0}, {6: 9.0}), beside({6: 9.0}, {})
    far = shown.classes[6].evidence["additive surprise"]
    assert far == nothing.classes[6].evidence["additive surprise"] > 3  # what is taken off is told apart
    assert shown.classes[6].evidence[CONTROL] == pytest.approx(min(far, 2 * FURTHEST))
    assert nothing.classes[6].evidence[CONTROL] == 0 and len(nothing.classes) == 10
    assert f"class 'kind 6' stands out by {far:.1f} spreads of clean models; in a control" in shown.reasons[1]
    assert shown.reasons[1].endswith(f"by {far:.1f}") and nothing.reasons[1].endswith("not at all")


def test_what_stands_out_beyond_all_that_was_calibrated_does_not_outweigh_its_control() -> None:
    far, further = (beside({6: size}, {6: 0.2}).classes[6] for size in (1.0, 0.01))
    assert further.evidence["additive surprise"] > far.evidence["additive surprise"] > FURTHEST
    assert far.probability == pytest.approx(further.probability) and far.probability < 0.6


def test_with_large_images_a_control_takes_off_and_adds_nothing() -> None:
    for side, more in ((32, True), (33, False)):
        shape, clean = (3, side, side), answers([-10.0] * 10)
        plain = detect(inversions({6: 15.0}), names(10), shape, CONFIG, clean=clean)
        natural = Natural(inversions({}), clean)
        told = detect(inversions({6: 15.0}), names(10), shape, CONFIG, clean=clean, natural=natural)
        assert (told.probability > plain.probability) == more


# Sources


def sent(
    targets: list[int], sizes: list[float], success: list[float] | None = None, early: float = 60.0
) -> Inversion:
    """Each class is sent to a target; all triggers were as large after the first heat."""
    inversion = found(sizes, success, targets=tuple(targets))
    first = torch.full((len(sizes),), early)
    return dataclasses.replace(inversion, sources=tuple(range(len(targets))), early=first)


def judged(*, control: Inversion | None = None, **sources: Inversion) -> Finding:
    inversions = named(found(ORDINARY["patch"][:6])) | sources
    clean = answers([-10.0] * 6)
    natural = Natural({EACH: control}, clean) if control else None
    return detect(inversions, names(6), SHAPE, CONFIG, clean=clean, natural=natural)


AWAY = [1, 2, 3, 4, 5, 0]
SOURCE_TERMS = SourceTerms(
    clean=2.0, spread=1.0, two_clean=1.0, two_spread=0.5, every_clean=0.0, every_spread=1.0
)
EVEN = [12.0, 11, 13, 12, 14, 12]
SMALL = [*EVEN[:4], 1.5, 12]


def test_a_source_that_fewer_pixels_turn_into_another_class_than_in_a_control_is_found_with_it() -> None:
    finding = judged(control=sent(AWAY, EVEN), **{EACH: sent(AWAY, SMALL)})
    (suspect,) = finding.suspects
    assert finding.verdict == "backdoored" and (suspect.index, suspect.best) == (5, EACH)
    assert suspect.evidence[f"{EACH} source"] == 4
    assert suspect.evidence[f"{EACH} size"] == 1.5
    assert suspect.evidence[f"{EACH} ratio"] == RATIO_CAP
    assert suspect.evidence[f"{EACH} below"] == pytest.approx(math.log(60 / 1.5), rel=1e-5)
    assert "'kind 4' to 'kind 5' (1.5, in a control 14.0)" in finding.reasons[0]
    assert suspect.sources == (4,) and not any(c.sources for c in finding.classes if c is not suspect)
    assert finding.family == "patch" and suspect.size == ORDINARY["patch"][5]


def test_sources_that_need_as_little_in_a_control_or_stay_where_they_are_change_nothing() -> None:
    assert judged(control=sent(AWAY, SMALL), **{EACH: sent(AWAY, SMALL)}).verdict == "clean"
    assert judged(control=sent(AWAY, EVEN), **{EACH: sent(AWAY, EVEN)}).verdict == "clean"
    stays = sent(AWAY, SMALL, success=[1, 1, 1, 1, 0.3, 1])
    assert judged(control=sent(AWAY, EVEN), **{EACH: stays}).verdict == "clean"
    none = sent(AWAY, SMALL, success=[0.0] * 6)
    assert judged(control=sent(AWAY, EVEN), **{EACH: none}).verdict == "clean"


def test_pairs_count_only_beside_those_of_a_control() -> None:
    assert judged(**{EACH: sent(AWAY, SMALL)}).verdict == "clean"
    others = dataclasses.replace(sent(AWAY[:4], EVEN[:4]), sources=(0, 1, 2, 3))
    assert judged(control=others, **{EACH: sent(AWAY, SMALL)}).verdict == "clean"


def test_sources_that_stand_out_half_as_far_for_the_same_target_are_named_too() -> None:
    targets = [1, 2, 3, 5, 5, 5]
    shown = sent(targets, [12.0] * 6)
    told = pairs(sent(targets, [12, 12, 12, 4, 3, 11]), shown)
    assert told.leading(5, SOURCE_TERMS) == (4, 3)
    assert told.leading(2, SOURCE_TERMS) == (1,) and told.of(4) == ()
    second = (math.log(12 / 4) + math.log(60 / 4) - 1) / 0.5  # further than the first, in its own spreads
    far = [second, math.log(60 / 12) - 2, -math.inf]
    assert each_surprise(told, (5, 3, 0), SOURCE_TERMS).tolist() == pytest.approx(far, rel=1e-5)


def test_a_pair_that_left_the_race_counts_for_nothing() -> None:
    race = dataclasses.replace(sent(AWAY, SMALL), heats=torch.tensor([2, 2, 2, 2, 1, 2]))
    told = pairs(race, sent(AWAY, EVEN))
    assert told.ratio.isfinite().tolist() == [True, True, True, True, False, True]
    assert told.below[0] == pytest.approx(math.log(60 / 12), rel=1e-5)


def test_one_small_trigger_that_moves_every_class_means_all_to_all() -> None:
    finding = judged(**{EVERY: sent(AWAY, [4.0] * 6, success=[1, 1, 1, 1, 1, 0.3])})
    assert finding.verdict == "backdoored" and {c.index for c in finding.suspects} == {1, 2, 3, 4, 5}
    assert [c.evidence.get(f"{EVERY} source") for c in finding.classes] == [None, 0, 1, 2, 3, 4]
    assert finding.reasons[0].startswith(
        "one trigger of 4.0 pixels moves 5 of 6 classes: 'kind 0' to 'kind 1'"
    )
    assert judged(**{EVERY: sent(AWAY, [150.0] * 6)}).verdict == "clean"
    assert judged(**{EVERY: sent(AWAY, [4.0] * 6, success=[0.4] * 6)}).verdict == "clean"
    assert judged(**{EVERY: sent([1, 0, 0, 1, 0, 0], [4.0] * 6)}).verdict == "clean"  # few targets


def test_fewer_than_five_targets_or_than_half_as_many_as_sources_do_not_mean_all_to_all() -> None:
    for targets, most in (
        ([1, 2, 3, 0], set()),
        ([1, 2, 3, 0, 1, 2], set()),
        ([1, 2, 3, 4, 0], set(range(5))),
    ):
        assert every_targets(sent(targets, [4.0] * len(targets))) == most
    twice = [1, 2, 3, 4, 0] * 2
    assert every_targets(sent(twice, [4.0] * 10)) == set(range(5))
    assert every_targets(sent([*twice, 1], [4.0] * 11)) == set()


def test_of_several_sources_of_one_target_the_one_that_is_sent_there_most_is_named() -> None:
    finding = judged(**{EVERY: sent([1, 2, 3, 4, 5, 1], [4.0] * 6, success=[0.6, 1, 1, 1, 0.9, 0.9])})
    assert [c.evidence.get(f"{EVERY} source") for c in finding.classes] == [None, 5, 1, 2, 3, 4]


# Clean margins


def reference_margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class by class, with loops."""
    means = []
    for k in range(logits.shape[1]):
        others = [logits[labels == c] for c in range(logits.shape[1]) if c != k]
        means.append(np.mean([np.mean([row[k] - max(np.delete(row, k)) for row in rows]) for rows in others]))
    middle = np.median(means)
    spread = max(1.4826 * float(median_abs_deviation(means)), 0.05 * abs(middle))
    return np.clip((np.array(means) - middle) / spread, *MARGIN_RANGE)


def test_clean_margins_are_those_of_a_plain_reckoning() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 6, generator=generator), torch.arange(40) % 6
    logits[:, 2] += 1.5
    clean = clean_answers(logits, labels)
    margins = clean.near()
    assert margins.numpy() == pytest.approx(reference_margins(logits.numpy(), labels.numpy()), rel=1e-5)
    assert int(margins.argmax()) == 2
    assert clean.right.tolist() == [
        row.argmax() == label for row, label in zip(logits.numpy(), labels.tolist(), strict=True)
    ]
    rivals = [np.delete(row, 2).max() for row in logits[labels == 4].numpy()]
    assert clean.margins[4, 2] == pytest.approx((logits[labels == 4, 2].numpy() - rivals).mean(), rel=1e-5)


def test_a_class_that_clean_images_are_near_is_more_suspect() -> None:
    sizes = [50.0, 52, 48, 14, 55, 51, 49, 47, 53, 50]
    chances = []
    for margin in (-12.0, -10.0, -7.0):
        clean = answers([-10, -9, -11, margin, -9, -11, -10, -9, -11, -10])
        chances.append(detect(named(found(sizes)), names(10), SHAPE, CONFIG, clean=clean).probability)
    assert chances == sorted(chances) and chances[0] < chances[2]
