"""The loop of scan, repair and rescan."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from planted import Planted, planted

from detrigger import clean as module
from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.errors import ModelError, UsageError
from detrigger.images import Images
from detrigger.measure import accuracy, success
from detrigger.model import Classifier
from detrigger.repair.guard import GuardConfig
from detrigger.repair.methods import METHODS, Method
from detrigger.scan import Backdoor, Scan, ScanConfig, scan
from detrigger.trigger.additive import AdditiveTrigger

QUICK = ScanConfig(precision="fp32")
IMPOSSIBLE = GuardConfig(success=-1.0)


def run(truth: Planted, config: CleanConfig = CleanConfig(), guard: GuardConfig = GuardConfig()) -> Cleaning:
    return clean(truth.model, truth.images, QUICK, config, guard=guard)


@pytest.mark.parametrize("targets", [(2,), (2, 4)])
def test_a_planted_backdoor_is_found_removed_and_no_longer_found(targets: tuple[int, ...]) -> None:
    truth = planted(targets=targets, classes=8, size=14)
    before = copy.deepcopy(truth.model.net.state_dict())
    result = run(truth)
    assert result.repaired and result.model is not truth.model
    assert result.reason == "the rescan with a fresh seed says clean"
    assert [s.finding.verdict for s in result.scans] == ["backdoored", "clean"]
    assert [s.seed for s in result.scans] == [0, 1]
    for trigger, target in zip(truth.triggers, targets, strict=True):  # the true ones, which no repair knew
        assert success(truth.model, truth.images, trigger, target) == 1
        assert success(result.model, truth.images, trigger, target) == 0
    assert accuracy(result.model, truth.images) == 1
    assert all(torch.equal(value, before[n]) for n, value in truth.model.net.state_dict().items())


def test_the_attempt_that_was_taken_is_told_with_its_judgement() -> None:
    truth = planted()
    (attempt,) = run(truth).attempts  # `auto` stops at the first method that passes
    assert attempt.chosen and attempt.judgement.accepted and attempt.round == 1
    assert attempt.method == "refit fc, 1 of 7 neurons silenced"
    assert attempt.judgement.images == 60  # 40 % of 24 images of each class
    assert len(attempt.judgement.success_after) == 1 and attempt.judgement.success_after[0] <= 0.05
    assert attempt.curve[0].success > attempt.curve[-1].success and attempt.seconds > 0


def test_one_of_several_good_candidates_is_taken() -> None:
    result = run(planted(), CleanConfig(method="prune-layers"))
    assert len(result.attempts) == 3 and sum(a.chosen for a in result.attempts) == 1
    assert result.repaired


def test_the_best_of_the_accepted_candidates_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    good, harmful = METHODS["prune"].candidates, METHODS["unlearn-long"].candidates
    both = Method("", "", lambda m: (*harmful(m), *good(m)))
    monkeypatch.setitem(METHODS, "both", both)
    real = module.judge

    def worse(original: Classifier, candidate: Classifier, *rest: object) -> object:
        made = real(original, candidate, *rest)  # type: ignore[arg-type]
        trained = bool(candidate.net.get_buffer("norm.num_batches_tracked"))
        return dataclasses.replace(made, accepted=True, accuracy_after=0.98 if trained else 1.0)

    monkeypatch.setattr(module, "judge", worse)
    result = run(planted(), CleanConfig(method="both", rounds=1))
    assert [a.chosen for a in result.attempts] == [False, True]


def test_it_fails_closed_when_no_candidate_passes() -> None:
    truth = planted()
    result = run(truth, guard=IMPOSSIBLE)
    assert not result.repaired and result.model is truth.model
    assert result.reason == "no candidate passed the guard; the original is untouched"
    assert len(result.scans) == 1
    names = [a.method.split(",")[0] for a in result.attempts]
    assert names == [
        "refit fc",
        "prune fc:in",
        "unlearn 1 epoch",
        "unlearn 10 epochs",
        "prune fc:in",
        "prune conv2",
        "prune norm",
    ]
    assert not any(a.chosen or a.judgement.accepted for a in result.attempts)


def test_a_method_that_is_named_is_tried_alone() -> None:
    result = run(planted(), CleanConfig(method="refit"), IMPOSSIBLE)
    assert [a.method for a in result.attempts] == ["refit fc, 1 of 7 neurons silenced"]


def test_a_clean_model_needs_no_repair() -> None:
    truth = planted(targets=())
    result = run(truth)
    assert not result.repaired and result.model is truth.model and not result.attempts
    assert result.reason == "nothing to repair: the verdict is clean"


def test_a_model_in_doubt_is_not_repaired() -> None:
    truth = planted()
    images = Images(truth.images.x, truth.images.y.roll(24), truth.images.names)
    result = clean(truth.model, images, QUICK)
    assert not result.repaired and result.model is truth.model and not result.attempts
    assert result.reason == "nothing to repair: the verdict is inconclusive"


def test_the_rounds_are_bounded_and_earlier_triggers_stay_in_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = planted()
    first = scan(truth.model, truth.images, QUICK)
    seeds: list[int] = []

    def stubborn(model: Classifier, images: Images, config: ScanConfig, *, seed: int, **rest: object) -> Scan:
        seeds.append(seed)
        return first

    monkeypatch.setattr(module, "scan", stubborn)
    result = clean(truth.model, truth.images, QUICK, CleanConfig(rounds=3), seed=10)
    assert not result.repaired and result.model is truth.model
    assert result.reason == "a backdoor is still found after 3 rounds; the original is untouched"
    assert seeds == [10, 11, 12, 13] and len(result.scans) == 4
    assert [a.round for a in result.attempts] == [1, 2, 3]
    assert [len(a.judgement.success_after) for a in result.attempts] == [1, 2, 3]
    assert all(a.judgement.success_before[0] > 0.8 for a in result.attempts)  # against the original


def test_a_first_scan_that_is_given_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted()
    first = scan(truth.model, truth.images, QUICK, seed=0)
    monkeypatch.setattr(module, "scan", lambda *a, **k: dataclasses.replace(first, finding=clean_finding))
    clean_finding = dataclasses.replace(first.finding, verdict="clean")
    result = clean(truth.model, truth.images, QUICK, first=first)
    assert result.scans[0] is first and len(result.scans) == 2 and result.repaired


def test_progress_is_told_for_every_scan() -> None:
    reports: list[tuple[int, int]] = []
    truth = planted()
    clean(truth.model, truth.images, QUICK, progress=lambda done, total: reports.append((done, total)))
    ends = [i for i, (done, total) in enumerate(reports) if done == total]
    starts = [i for i, (done, _) in enumerate(reports) if i == 0 or done < reports[i - 1][0]]
    assert len(starts) == 2 and starts[1] - 1 in ends and ends[-1] == len(reports) - 1


def test_an_unknown_method_is_a_usage_error_before_anything_is_done() -> None:
    truth = planted()
    with pytest.raises(UsageError, match="no repair 'magic'; choose auto, prune"):
        clean(
            truth.model,
            truth.images,
            QUICK,
            CleanConfig(method="magic"),
            progress=lambda done, total: pytest.fail("scanned"),
        )


def test_a_method_that_does_not_apply_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "idle", Method("", "", lambda model: ()))
    with pytest.raises(UsageError, match="repair 'idle' does not apply"):
        run(planted(), CleanConfig(method="idle"))


def test_a_repaired_model_that_cannot_be_scanned_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted()
    scans: list[Scan] = []

    def failing(model: Classifier, images: Images, config: ScanConfig, **rest: Any) -> Scan:
        if scans:
            assert model is not truth.model
            raise ModelError("the search for triggers met NaN")
        scans.append(scan(model, images, config, **rest))
        return scans[0]

    monkeypatch.setattr(module, "scan", failing)
    result = run(truth)
    assert not result.repaired and result.model is truth.model
    assert result.reason == (
        "the repaired model cannot be scanned (the search for triggers met NaN); the original is untouched"
    )
    assert list(result.scans) == scans and [a.chosen for a in result.attempts] == [True]


def test_an_original_that_cannot_be_scanned_is_an_error() -> None:
    truth = planted()
    net = copy.deepcopy(truth.model.net)
    net.get_parameter("fc.bias").data.fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        clean(Classifier(net, truth.model.classes, (1, 12, 12)), truth.images, QUICK)


def test_backdoors_of_two_families_are_repaired_together() -> None:
    truth = planted(targets=(2, 4), classes=8, size=14)
    first = scan(truth.model, truth.images, QUICK)
    other = truth.triggers[1]
    added = AdditiveTrigger(other.masks * (2 * other.patterns - 1))  # stamps the same images
    common = {"sources": "all", "success": 1.0, "probability": 1.0}
    found = (
        Backdoor(target=2, family="patch", trigger=truth.triggers[0], size=9.0, **common),  # type: ignore[arg-type]
        Backdoor(target=4, family="additive", trigger=added, size=30.0, **common),  # type: ignore[arg-type]
    )
    result = clean(truth.model, truth.images, QUICK, first=dataclasses.replace(first, backdoors=found))
    (attempt,) = result.attempts
    assert result.repaired and len(attempt.judgement.success_after) == 2
    for trigger, target in zip(truth.triggers, truth.targets, strict=True):
        assert success(result.model, truth.images, trigger, target) == 0
