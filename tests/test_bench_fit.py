from __future__ import annotations

from typing import Any

import pytest
import torch

from detrigger.bench import fit as fitting
from detrigger.bench.fit import EVERY, SPECIFIC, Case, case, coefficients, fit, left_out, probability
from detrigger.detect import INDEX_CAP, Terms
from detrigger.pairs import PairTerms
from detrigger.trigger import FAMILIES


def one(name: str, *, gap: float, backdoored: bool, dataset: str = "a", attack: str = "badnets") -> Case:
    figures = {"patch": torch.tensor([[0.0, gap, 0.0]]).double()}
    return Case(name, dataset, attack if backdoored else "clean", backdoored, figures)


CASES = [one(f"c{i}", gap=0.1 * i, backdoored=False, dataset="ab"[i % 2]) for i in range(6)] + [
    one(f"b{i}", gap=2 + 0.1 * i, backdoored=True, dataset="ab"[i % 2], attack=("badnets", "sig")[i % 2])
    for i in range(6)
]


def card(*, backdoored: bool, score: float = 20.0) -> dict[str, Any]:
    def evidence(probability: float) -> dict[str, float]:
        figures = {"score": score, "gap": 1.0, "level": 2.0, "probability": probability}
        return {f"{family} {name}": value for family in FAMILIES for name, value in figures.items()}

    leader = evidence(0.5) | {"pair gap": 0.3, "pair level": 0.4, "pair matching level": 0.6}
    classes = [{"index": 0, "evidence": leader}, {"index": 1, "evidence": evidence(0.0)}]
    truth = {"id": "m", "dataset": "a", "attack": "sig", "targets": [1], "backdoored": backdoored}
    return {"scan": {"classes": classes, "model": {"sha256": "f" * 64}}, "truth": truth}


def test_models_that_one_figure_separates_are_told_apart() -> None:
    terms = fit(CASES)
    chances = [probability(c, terms) for c in CASES]
    assert max(chances[:6]) < 0.5 < min(chances[6:])
    assert all(bool((t[1:] >= 0).all()) for t in terms.values())


def test_the_probability_is_one_minus_the_chance_that_no_kind_and_no_class_is_a_target() -> None:
    terms = {
        "patch": torch.tensor([-1.0, 0.0, 2.0, 0.0]).double(),
        SPECIFIC: torch.tensor([0.0, 1.0, 0.0]).double(),
    }
    rows = torch.tensor([[0.0, 0.1, 0.0], [9.0, 1.5, 9.0]]).double()
    both = Case("m", "a", "sig", True, {"patch": rows, SPECIFIC: torch.tensor([[0.7, 5.0]]).double()})
    expected = 1 - (1 - torch.tensor(2.0).sigmoid()) * (1 - torch.tensor(0.7).sigmoid())
    assert probability(both, terms) == pytest.approx(expected.item(), abs=1e-6)
    empty = Case("m", "a", "sig", True, {"patch": torch.zeros(0, 3).double()})
    assert probability(empty, terms) == 0


@pytest.mark.parametrize("by", ["dataset", "attack"])
def test_no_model_is_judged_by_terms_fitted_on_its_own_group(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[list[Case]] = []

    def watched(cases: list[Case]) -> dict[str, torch.Tensor]:
        fitted.append(list(cases))
        return {"patch": torch.zeros(4).double()}

    monkeypatch.setattr(fitting, "fit", watched)
    assert set(left_out(CASES, by=by)) == {c.id for c in CASES}
    left = [{c.id for c in CASES} - {c.id for c in group} for group in fitted]
    assert sum(len(ids) for ids in left) == len(CASES)
    for c in CASES:
        group = next(ids for ids in left if c.id in ids)
        alike = {o.id for o in CASES if o.backdoored and (getattr(o, by) == getattr(c, by))}
        assert not c.backdoored or alike <= group


def test_of_a_backdoored_model_its_targets_count_and_of_a_clean_one_every_class() -> None:
    clean, bad = case(card(backdoored=False)), case(card(backdoored=True))
    assert clean.figures["patch"].tolist() == [[INDEX_CAP, 1.0, 2.0]]  # class 1 was not reached
    assert clean.figures[SPECIFIC].tolist() == [[0.3, 0.4]] and clean.figures[EVERY].tolist() == [[0.6]]
    assert len(bad.figures["patch"]) == 0 and SPECIFIC not in bad.figures and EVERY not in bad.figures


def test_coefficients_are_what_the_verdict_reads_and_say_on_what_they_were_fitted() -> None:
    stored = coefficients(fit(CASES), CASES, "two sets")
    assert stored["fitted_on"] == "two sets: 6 clean and 6 backdoored models"
    assert {family: Terms(**terms) for family, terms in stored["families"].items()}.keys() == FAMILIES.keys()
    PairTerms(**stored["pairs"])
