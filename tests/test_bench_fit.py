from __future__ import annotations

from typing import Any

import pytest

from detrigger.bench import fit as fitting
from detrigger.bench.fit import Case, Fitted, case, coefficients, fit, left_out, probability
from detrigger.bench.fit_table import fit_tables
from detrigger.detect import Calibration, fitted
from detrigger.evidence import INDEX_CAP, Terms
from detrigger.sources import EACH, EVERY, SourceTerms
from detrigger.trigger import FAMILIES

TERMS = dict.fromkeys(FAMILIES, Terms(index=2.0, gap=3.0, level=5.0, margin=7.0, clean=0.0, spread=1.0))
SOURCES = SourceTerms(gap=2.0, effect=3.0, clean=0.0, spread=1.0, every_clean=0.0, every_spread=1.0)


def one(name: str, total: float, *, backdoored: bool, dataset: str = "a", attack: str = "badnets") -> Case:
    return Case(name, dataset, attack if backdoored else "clean", backdoored, False, {"patch": total})


CASES = [one(f"c{i}", 0.5 * i, backdoored=False, dataset="ab"[i % 2]) for i in range(6)] + [
    one(f"b{i}", 6 + 0.1 * i, backdoored=True, dataset="ab"[i % 2], attack=("badnets", "sig")[i % 2])
    for i in range(6)
]


def card(*, sources: bool = True, score: float = 20.0) -> dict[str, Any]:
    def evidence(size: float, *, reached: bool) -> dict[str, float]:
        figures = {"score": score, "gap": size, "level": 2.0} | ({"surprise": 0.0} if reached else {})
        by_family = {f"{family} {name}": value for family in FAMILIES for name, value in figures.items()}
        return {"clean margin": 0.25} | by_family

    leader = evidence(1.0, reached=True)
    if sources:
        leader |= {f"{EACH} gap": 0.3, f"{EACH} effect": 0.4, f"{EVERY} level": 0.6}
    classes = [{"index": 0, "evidence": leader}, {"index": 1, "evidence": evidence(9.0, reached=False)}]
    truth = {"id": "m", "dataset": "a", "attack": "sig", "targets": [1], "backdoored": True, "weak": True}
    return {"scan": {"classes": classes, "model": {"sha256": "f" * 64}}, "truth": truth}


def test_models_that_one_sum_separates_are_told_apart() -> None:
    found = fit(CASES)
    chances = [probability(c, found) for c in CASES]
    assert max(chances[:6]) < 0.5 < min(chances[6:])


def test_mean_and_spread_are_those_of_clean_models_alone() -> None:
    mean, spread = fit(CASES).clean["patch"]
    assert mean == pytest.approx(1.25) and spread == pytest.approx(0.9354, abs=1e-4)


def test_a_kind_that_few_clean_models_show_has_no_mean_of_its_own() -> None:
    few = [Case(c.id, c.dataset, c.attack, c.backdoored, False, {"warp": 7.0}) for c in CASES[2:]]
    assert fit(few).clean["warp"] == (0.0, fitting.LEAST_SPREAD)


def test_weak_models_do_not_count_in_the_calibration() -> None:
    weak = [Case(f"w{i}", "a", "sig", True, True, {"patch": 0.0}) for i in range(20)]
    assert fit([*CASES, *weak]) == fit(CASES)


def test_the_furthest_kind_decides() -> None:
    found = Fitted({"patch": (1.0, 2.0), EACH: (0.0, 0.5)}, Calibration(-1.0, 2.0))
    both = Case("m", "a", "sig", True, False, {"patch": 2.0, EACH: 0.4})  # 0.5 and 0.8 spreads
    assert probability(both, found) == pytest.approx(1 / (1 + 2.718281828 ** (1 - 1.6)))
    assert probability(Case("m", "a", "sig", True, False, {}), found) < 1e-6


@pytest.mark.parametrize("by", ["dataset", "attack"])
def test_no_model_is_judged_by_terms_fitted_on_its_own_group(
    by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[list[Case]] = []

    def watched(cases: list[Case]) -> Fitted:
        used.append(list(cases))
        return Fitted({"patch": (0.0, 1.0)}, Calibration(0.0, 1.0))

    monkeypatch.setattr(fitting, "fit", watched)
    assert set(left_out(CASES, by=by)) == {c.id for c in CASES}
    left = [{c.id for c in CASES} - {c.id for c in group} for group in used]
    assert sum(len(ids) for ids in left) == len(CASES)
    for c in CASES:
        group = next(ids for ids in left if c.id in ids)
        alike = {o.id for o in CASES if o.backdoored and (getattr(o, by) == getattr(c, by))}
        assert not c.backdoored or alike <= group


def test_a_card_gives_the_highest_weighted_sum_of_the_classes_that_were_reached() -> None:
    found = case(card(), TERMS, SOURCES)
    assert found.sums["patch"] == pytest.approx(
        2 * INDEX_CAP + 3 * 1.0 + 5 * 2.0 + 7 * 0.25
    )  # class 1 was not reached
    assert found.sums[EACH] == pytest.approx(2 * 0.3 + 3 * 0.4) and found.sums[EVERY] == 0.6
    assert found.backdoored and found.weak
    assert not {EACH, EVERY} & case(card(sources=False), TERMS, SOURCES).sums.keys()


def test_coefficients_are_what_the_verdict_reads_and_say_on_what_they_were_fitted() -> None:
    found = fit(CASES)
    stored = coefficients(found, CASES, TERMS, SOURCES, "two sets")
    assert stored["fitted_on"] == "two sets: 6 clean and 6 backdoored models"
    families = {family: Terms(**terms) for family, terms in stored["families"].items()}
    assert families.keys() == FAMILIES.keys()
    assert (families["patch"].clean, families["patch"].index) == (1.25, 2.0)
    assert SourceTerms(**stored["sources"]).gap == 2.0
    assert Calibration(**stored["calibration"]).slope == pytest.approx(found.calibration.slope, abs=1e-3)


def test_the_stored_terms_can_be_read() -> None:
    terms, _, calibration = fitted()
    assert terms.keys() == FAMILIES.keys() and calibration.slope > 0


def test_the_tables_tell_figures_by_what_was_left_out_and_by_what_was_switched_off() -> None:
    cards = []
    for c in CASES:
        told = card(score=c.sums["patch"])
        told["truth"] |= {"id": c.id, "dataset": c.dataset, "backdoored": c.backdoored, "weak": False}
        cards.append(told)
    rows = [[list(column.cells) for column in table.columns] for table in fit_tables(cards, TERMS, SOURCES)]
    left, off = (dict(zip(columns[0], columns[2], strict=True)) for columns in rows)
    assert left["nothing"] == "1.000" and set(off) == {
        *FAMILIES,
        EACH,
        EVERY,
        "index",
        "gap",
        "level",
        "margin",
    }
    assert off["patch"] == "1.000"  # the other families say the same
    assert off["index"] == "0.500"  # all else is equal
