from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest

from detrigger.bench import fit as fitting
from detrigger.bench.fit import (
    Case,
    Fitted,
    Known,
    case,
    coefficients,
    fit,
    furthest,
    left,
    left_out,
    probability,
)
from detrigger.bench.fit_table import fit_tables
from detrigger.coefficients import Calibration, Coefficients, fitted
from detrigger.evidence import FURTHEST, INDEX_CAP, NaturalTerms, Terms
from detrigger.sources import EACH, EVERY, SourceTerms
from detrigger.trigger import FAMILIES

TERMS = dict.fromkeys(FAMILIES, Terms(index=2.0, gap=3.0, level=5.0, margin=7.0, clean=0.0, spread=1.0))
SOURCES = SourceTerms(clean=0.0, spread=1.0, two_clean=0.0, two_spread=1.0, every_clean=0.0, every_spread=1.0)
CONTROL_TERMS = NaturalTerms(weight=0.5, intercept=-1.0, slope=2.0)
KNOWN = Coefficients(TERMS, SOURCES, Calibration(-1.0, 1.0), CONTROL_TERMS, larger=0.0)


def logit(chance: float) -> float:
    return math.log(chance / (1 - chance))


def one(name: str, total: float, *, backdoored: bool, dataset: str = "a", attack: str = "badnets") -> Case:
    return Case(name, dataset, attack if backdoored else "clean", backdoored, False, {"patch": total})


CASES = [one(f"c{i}", 0.5 * i, backdoored=False, dataset="ab"[i % 2]) for i in range(6)] + [
    one(f"b{i}", 6 + 0.1 * i, backdoored=True, dataset="ab"[i % 2], attack=("badnets", "sig")[i % 2])
    for i in range(6)
]


def card(*, sources: bool = True, score: float = 20.0, shape: Sequence[int] = (3, 32, 32)) -> dict[str, Any]:
    def evidence(size: float, *, reached: bool) -> dict[str, float]:
        figures = {"score": score, "gap": size, "level": 2.0} | ({"surprise": 0.0} if reached else {})
        by_family = {f"{family} {name}": value for family in FAMILIES for name, value in figures.items()}
        return {"clean margin": 0.25} | by_family

    leader = evidence(1.0, reached=True)
    if sources:
        leader |= {f"{EACH} ratio": 0.3, f"{EACH} below": 0.4, f"{EACH} second": 0.5, f"{EVERY} level": 0.6}
    classes = [{"index": 0, "evidence": leader}, {"index": 1, "evidence": evidence(9.0, reached=False)}]
    truth = {"id": "m", "dataset": "a", "attack": "sig", "targets": [1], "backdoored": True, "weak": True}
    return {"scan": {"classes": classes, "model": {"sha256": "f" * 64, "image_shape": shape}}, "truth": truth}


def test_models_that_one_sum_separates_are_told_apart() -> None:
    found = fit(CASES, CONTROL_TERMS)
    chances = [probability(c, found) for c in CASES]
    assert max(chances[:6]) < 0.5 < min(chances[6:])


def test_mean_and_spread_are_those_of_clean_models_alone() -> None:
    mean, spread = fit(CASES, CONTROL_TERMS).clean.sums["patch"]
    assert mean == pytest.approx(1.25) and spread == pytest.approx(0.9354, abs=1e-4)


def test_a_kind_that_few_clean_models_show_is_judged_by_the_highest_of_them() -> None:
    few = [dataclasses.replace(c, sums={"warp": i - 7.0}) for i, c in enumerate(CASES[2:])]
    assert fit(few, CONTROL_TERMS).clean.sums["warp"] == (-4.0, fitting.LEAST_SPREAD)
    assert fit(few, CONTROL_TERMS).clean.sums["colour"] == (0.0, fitting.LEAST_SPREAD)


def test_weak_models_do_not_count_in_the_calibration() -> None:
    weak = [Case(f"w{i}", "a", "sig", True, True, {"patch": 0.0}) for i in range(20)]
    assert fit([*CASES, *weak], CONTROL_TERMS) == fit(CASES, CONTROL_TERMS)


def test_clean_models_may_stand_out_further_on_larger_images_and_as_much_is_allowed_there() -> None:
    more = [dataclasses.replace(one(f"l{i}", 3 + 0.5 * i, backdoored=False), larger=True) for i in range(5)]
    found = fit([*CASES, *more], CONTROL_TERMS)
    spread = found.clean.sums["patch"][1]
    assert found.clean.larger == pytest.approx((4 - 1.25) / spread)
    small, large = (dataclasses.replace(CASES[-1], larger=larger) for larger in (False, True))
    plain = dataclasses.replace(found, clean=Known(found.clean.sums))
    assert probability(large, found) < probability(small, found)
    assert probability(small, found) == probability(small, plain) == probability(large, plain)
    odds = found.calibration.slope * found.clean.larger
    assert logit(probability(small, found)) - logit(probability(large, found)) == pytest.approx(odds)
    assert coefficients(found, CASES, KNOWN, "")["larger"] == round(found.clean.larger, 3)


def test_with_larger_images_a_control_takes_off_and_has_no_odds_of_its_own() -> None:
    clean = Known({"patch": (0.0, 1.0), EVERY: (0.0, 1.0)}, larger=1.0)
    found = Fitted(clean, Calibration(-1.0, 1.0), NaturalTerms(0.5, -5.0, 3.0))
    small = controlled("m", 6.0, 2.0, backdoored=True)
    assert logit(probability(small, found)) == pytest.approx(-5 + 3 * (6 - 0.5 * 2))
    large = dataclasses.replace(small, larger=True)
    assert logit(probability(large, found)) == pytest.approx(-1 + 6 - 1 - 0.5 * 2)
    asked = [controlled(f"d{i}", 9.0 + i, 8.0 * (i % 2), backdoored=not i % 2) for i in range(10)]
    told = fit([*CASES, *(dataclasses.replace(c, larger=True) for c in asked)], CONTROL_TERMS)
    assert told.control == CONTROL_TERMS


def test_how_much_further_clean_models_stand_out_is_told_by_families_alone() -> None:
    more = [dataclasses.replace(one(f"l{i}", 3 + 0.5 * i, backdoored=False), larger=True) for i in range(5)]
    far = fit([*CASES, *more], CONTROL_TERMS).clean.larger
    pairs = [dataclasses.replace(c, sums=c.sums | {EACH: 0.4 * i}) for i, c in enumerate(CASES)]
    none = dataclasses.replace(CASES[0], id="n", sums={EVERY: -1.0})
    assert fit([*pairs, none, *more], CONTROL_TERMS).clean.larger == pytest.approx(far)


def test_too_few_clean_models_of_larger_images_or_of_small_ones_allow_nothing() -> None:
    more = [dataclasses.replace(one(f"l{i}", 3.0, backdoored=False), larger=True) for i in range(4)]
    assert fit([*CASES, *more], CONTROL_TERMS).clean.larger == 0
    assert fit([dataclasses.replace(c, larger=True) for c in CASES], CONTROL_TERMS).clean.larger == 0
    below = [dataclasses.replace(one(f"l{i}", -3.0, backdoored=False), larger=True) for i in range(5)]
    assert fit([*CASES, *below], CONTROL_TERMS).clean.larger == 0


def test_sources_are_not_allowed_more_on_larger_images() -> None:
    clean = Known({"patch": (0.0, 1.0), EVERY: (0.0, 1.0)}, larger=2.0)
    large = Case("m", "a", "sig", True, False, {"patch": 3.0, EVERY: 2.5}, larger=True)
    assert furthest(large, clean) == 2.5 and furthest(dataclasses.replace(large, larger=False), clean) == 3


def test_a_card_tells_whether_its_images_are_larger_than_a_control_is_asked_for() -> None:
    assert [case(card(shape=s), KNOWN).larger for s in ((3, 32, 32), (1, 33, 32), (3, 8, 128))] == [
        False,
        True,
        True,
    ]


def test_the_furthest_kind_decides() -> None:
    found = Fitted(Known({"patch": (1.0, 2.0), EACH: (0.0, 0.5)}), Calibration(-1.0, 2.0), CONTROL_TERMS)
    both = Case("m", "a", "sig", True, False, {"patch": 2.0, EACH: 0.4})  # 0.5 and 0.8 spreads
    assert probability(both, found) == pytest.approx(1 / (1 + 2.718281828 ** (1 - 1.6)))
    assert probability(Case("m", "a", "sig", True, False, {}), found) < 1e-6


@pytest.mark.parametrize("by", ["dataset", "attack"])
def test_no_model_is_judged_by_terms_fitted_on_its_own_group(
    by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[list[Case]] = []

    def watched(cases: list[Case], control: NaturalTerms) -> Fitted:
        used.append(list(cases))
        return Fitted(Known({"patch": (0.0, 1.0)}), Calibration(0.0, 1.0), control)

    monkeypatch.setattr(fitting, "fit", watched)
    assert set(left_out(CASES, CONTROL_TERMS, by=by)) == {c.id for c in CASES}
    left = [{c.id for c in CASES} - {c.id for c in group} for group in used]
    assert sum(len(ids) for ids in left) == len(CASES)
    for c in CASES:
        group = next(ids for ids in left if c.id in ids)
        alike = {o.id for o in CASES if o.backdoored and (getattr(o, by) == getattr(c, by))}
        assert not c.backdoored or alike <= group


def test_a_card_gives_the_highest_weighted_sum_of_the_classes_that_were_reached() -> None:
    found = case(card(), KNOWN)
    assert found.sums["patch"] == pytest.approx(
        2 * INDEX_CAP + 3 * 1.0 + 5 * 2.0 + 7 * 0.25
    )  # class 1 was not reached
    assert found.sums[EACH] == pytest.approx(0.3 + 0.4) and found.sums[EVERY] == 0.6
    assert found.backdoored and found.weak
    assert not {EACH, EVERY} & case(card(sources=False), KNOWN).sums.keys()


def controlled(name: str, total: float, natural: float, *, backdoored: bool) -> Case:
    """Class 0 stands out, and in the control as well; class 1 by nothing."""
    classes = (({"patch": total, EVERY: 1.0}, natural), ({"patch": 0.0}, 0.0))
    kind = "badnets" if backdoored else "clean"
    return Case(name, "a", kind, backdoored, False, {"patch": total, EVERY: 1.0}, classes)


def test_what_a_control_shows_is_taken_off_what_a_family_shows_and_not_off_what_sources_do() -> None:
    clean = Known({"patch": (1.0, 2.0), EVERY: (0.0, 1.0)})
    assert left(controlled("m", 7.0, 2.0, backdoored=True), clean, 0.5) == pytest.approx((3 - 0.5 * 2, 1))
    colour = Case("m", "a", "sig", True, False, {}, (({"colour": 5.0}, 4.0), ({"colour": 1.0}, 0.0)))
    assert left(colour, Known({"colour": (0.0, 1.0)}), 0.5) == pytest.approx((-FURTHEST, 3))
    for plain, odds in ((Calibration(-9.0, 1.0), -1 + 2 * 2), (Calibration(0.0, 4.0), 4 * 1)):
        found = Fitted(clean, plain, CONTROL_TERMS)
        chance = probability(controlled("m", 7.0, 2.0, backdoored=True), found)
        assert chance == pytest.approx(1 / (1 + 2.718281828**-odds))


def test_models_with_a_control_are_calibrated_by_themselves_with_the_weight_that_was_given() -> None:
    asked = [controlled(f"d{i}", 9.0 + i, 8.0, backdoored=False) for i in range(5)]
    asked += [controlled(f"e{i}", 9.0 + i, 0.0, backdoored=True) for i in range(5)]
    found = fit([*CASES, *asked], CONTROL_TERMS)
    assert found.control.weight == 0.5 and found.control != CONTROL_TERMS
    chances = [probability(c, found) for c in asked]
    assert max(chances[:5]) < 0.5 < min(chances[5:])
    assert fit([*CASES, *asked[:5]], CONTROL_TERMS).control == CONTROL_TERMS  # none of them is backdoored


def test_a_card_of_a_model_with_a_control_tells_what_it_shows_of_each_class() -> None:
    told = card(sources=False)
    for row, natural in zip(told["scan"]["classes"], (3.0, 0.0), strict=True):
        row["evidence"]["control surprise"] = natural
    found = case(told, KNOWN)
    assert [natural for _, natural in found.classes] == [3.0, 0.0]
    assert found.classes[0][0] == found.sums and found.classes[1][0] == {}
    assert case(card(), KNOWN).classes == ()


def test_coefficients_are_what_the_verdict_reads_and_say_on_what_they_were_fitted() -> None:
    found = fit(CASES, CONTROL_TERMS)
    stored = coefficients(found, CASES, KNOWN, "two sets")
    assert stored["fitted_on"] == "two sets: 6 clean and 6 backdoored models"
    families = {family: Terms(**terms) for family, terms in stored["families"].items()}
    assert families.keys() == FAMILIES.keys()
    assert (families["patch"].clean, families["patch"].index) == (1.25, 2.0)
    assert SourceTerms(**stored["sources"]) == dataclasses.replace(SOURCES, every_spread=fitting.LEAST_SPREAD)
    pairs = [dataclasses.replace(c, sums={EACH: i / 2, fitting.TWO: float(i)}) for i, c in enumerate(CASES)]
    terms = SourceTerms(**coefficients(fit(pairs, CONTROL_TERMS), pairs, KNOWN, "")["sources"])
    assert (terms.clean, terms.two_clean) == (1.25, 2.5)  # of the six clean ones, which come first
    assert terms.two_spread == pytest.approx(2 * terms.spread, abs=2e-3)
    assert NaturalTerms(**stored["control"]) == CONTROL_TERMS
    assert Calibration(**stored["calibration"]).slope == pytest.approx(found.calibration.slope, abs=1e-3)


def test_the_stored_terms_can_be_read() -> None:
    assert fitted().families.keys() == FAMILIES.keys() and fitted().calibration.slope > 0


def test_the_tables_tell_figures_by_what_was_left_out_and_by_what_was_switched_off() -> None:
    cards = []
    for c in CASES:
        told = card(score=c.sums["patch"])
        told["truth"] |= {"id": c.id, "dataset": c.dataset, "backdoored": c.backdoored, "weak": False}
        cards.append(told)
    rows = [[list(column.cells) for column in table.columns] for table in fit_tables(cards, KNOWN)]
    left, off = (dict(zip(columns[0], columns[2], strict=True)) for columns in rows)
    assert left["nothing"] == "1.000" and set(off) == {
        *FAMILIES,
        EACH,
        fitting.TWO,
        EVERY,
        "larger images, by attack",
        "index",
        "gap",
        "level",
        "margin",
        "control",
    }
    assert off["patch"] == "1.000"  # the other families say the same
    assert off["index"] == "0.500"  # all else is equal
