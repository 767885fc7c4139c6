"""The loop of scan, repair and rescan."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from typing import Any, Literal

import pytest
import torch
from planted import Planted, planted
from tiny import Norm, learned

from detrigger import clean as module
from detrigger import portfolio
from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.errors import DataError, ModelError, UsageError
from detrigger.evidence import Clean, Natural
from detrigger.images import Images, drawn
from detrigger.measure import accuracy, success
from detrigger.model import Classifier
from detrigger.repair.methods import AUTO, METHODS, Method
from detrigger.scan import Backdoor, Scan, ScanConfig, scan
from detrigger.trigger.additive import AdditiveTrigger

Verdict = Literal["clean", "backdoored", "inconclusive"]
QUICK = ScanConfig(budget="quick", precision="fp32")


def run(truth: Planted, config: CleanConfig = CleanConfig()) -> Cleaning:
    return clean(truth.model, truth.images, QUICK, config)


@cache
def found() -> Scan:
    """Of `planted()`."""
    truth = planted()
    return scan(truth.model, truth.images, QUICK)


def told(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    """From now on scans are not made: they say this, one after another, the last for ever."""
    left = list(verdicts)

    def scanned(model: Classifier, images: Images, config: ScanConfig, *, seed: int, **rest: Any) -> Scan:
        verdict = left.pop(0) if len(left) > 1 else left[0]
        return dataclasses.replace(
            found(), finding=dataclasses.replace(found().finding, verdict=verdict), seed=seed
        )

    monkeypatch.setattr(module, "scan", scanned)


def few(images: Images, per_class: int) -> Images:
    return images.where(drawn(images.y, per_class=per_class, in_all=None, seed=0))


def repaired(config: CleanConfig = CleanConfig()) -> Cleaning:
    truth = planted()
    return clean(truth.model, truth.images, QUICK, config, first=found())


@pytest.mark.parametrize("targets", [(2,), (2, 4)])
def test_a_planted_backdoor_is_found_removed_and_no_longer_found(targets: tuple[int, ...]) -> None:
    truth = planted(targets=targets, classes=8, size=14)
    before = copy.deepcopy(truth.model.net.state_dict())
    result = run(truth)
    assert result.repaired and result.model is not truth.model
    assert result.reason == "2 rescans with fresh seeds say clean" and not result.doubt
    assert [s.finding.verdict for s in result.scans] == ["backdoored", "clean", "clean"]
    assert [s.seed for s in result.scans] == [0, 1, 2] and result.rounds == (0, 1, 1)
    assert [s.images for s in result.scans] == [192, 144, 144]  # those that certify are not rescanned on
    for trigger, target in zip(truth.triggers, targets, strict=True):  # the true ones, which no repair knew
        assert success(truth.model, truth.images, trigger, target) == 1
        assert success(result.model, truth.images, trigger, target) == 0
    assert accuracy(result.model, truth.images) == 1
    assert all(torch.equal(value, before[n]) for n, value in truth.model.net.state_dict().items())


def test_the_attempt_that_was_taken_is_told_with_its_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "clean")
    (attempt,) = repaired(CleanConfig(method="unlearn-distilled")).attempts  # stops at one with a margin
    assert attempt.chosen and attempt.judgement.accepted and attempt.round == 1
    assert attempt.method == "unlearn-distilled 67 epochs, rate 0.02"  # of 3 steps each: 200 or more
    assert attempt.judgement.images == 24 and attempt.judgement.looks == 0  # 16 % of 24 images per class
    assert attempt.certificate is not None and attempt.certificate.accepted
    assert attempt.certificate.images == 36 and attempt.certificate.looks == 1
    assert len(attempt.judgement.success_after) == 1 and attempt.judgement.success_after[0] <= 0.05
    assert attempt.curve[0].success > attempt.curve[-1].success and attempt.seconds > 0


def test_rescans_take_over_what_a_control_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Clean(torch.zeros(6, 6), torch.ones(1, dtype=torch.bool))
    known, shown = Natural({}, answers), Natural({}, answers)
    given: list[Natural | None] = []

    def scanned(*_: Any, natural: Natural | None, seed: int, **rest: Any) -> Scan:
        given.append(natural)
        finding = dataclasses.replace(found().finding, verdict="clean")
        return dataclasses.replace(found(), finding=finding, natural=natural or shown, seed=seed)

    monkeypatch.setattr(module, "scan", scanned)
    truth = planted()
    for first, expected in ((known, (known, known)), (None, (None, shown))):
        given.clear()
        clean(truth.model, truth.images, QUICK, first=dataclasses.replace(found(), natural=first))
        assert [n is e for n, e in zip(given, expected, strict=True)] == [True, True]


def test_one_of_several_good_candidates_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "clean")
    three = Method("", "", lambda model: METHODS["prune"].candidates(model) * 3)
    monkeypatch.setitem(METHODS, "three", three)
    monkeypatch.setattr(portfolio, "ROBUST", -1.0)  # none is good enough to stop at
    result = repaired(CleanConfig(method="three"))
    assert len(result.attempts) == 3 and sum(a.chosen for a in result.attempts) == 1
    assert result.repaired


def test_the_best_of_the_accepted_candidates_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    good, harmful = METHODS["prune"].candidates, METHODS["unlearn-distilled"].candidates
    both = Method("", "", lambda m: (*harmful(m)[:1], *good(m)))
    monkeypatch.setitem(METHODS, "both", both)
    real = portfolio.judge

    def worse(original: Classifier, candidate: Classifier, *rest: object, **options: object) -> object:
        made = real(original, candidate, *rest, **options)  # type: ignore[arg-type]
        trained = not torch.equal(*(m.net.get_parameter("conv1.weight") for m in (original, candidate)))
        return dataclasses.replace(made, accepted=True, accuracy_after=0.95 if trained else 1.0)

    monkeypatch.setattr(portfolio, "judge", worse)
    told(monkeypatch, "clean")
    monkeypatch.setattr(portfolio, "ROBUST", -1.0)
    result = repaired(CleanConfig(method="both", rounds=1))
    assert [a.chosen for a in result.attempts] == [False, True]


def test_what_is_left_of_the_trigger_outweighs_a_little_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that pass, the one that lost accuracy within the margin is taken, if it is the cleaner."""
    three = Method("", "", lambda model: METHODS["prune"].candidates(model) * 3)
    monkeypatch.setitem(METHODS, "three", three)
    real = portfolio.judge
    left = [
        {"accuracy_after": 1.0, "stronger_after": (0.04,), "natural": (0.0,)},
        {"accuracy_after": 0.99, "stronger_after": (0.06,), "natural": (0.05,)},  # 1 % more than without it
        {"accuracy_after": 0.9, "stronger_after": (0.0,), "natural": (0.0,)},
    ]

    def judged(*given: Any, looks: int = 0) -> object:
        made = real(*given, looks=looks)
        if looks:
            return made
        fine = {"accuracy_before": 1.0, "success_after": (0.0,), "robust_after": (1.0,)}
        return dataclasses.replace(made, accepted=True, **fine, **left.pop(0))

    monkeypatch.setattr(portfolio, "judge", judged)
    monkeypatch.setattr(portfolio, "ROBUST", -1.0)
    told(monkeypatch, "clean")
    result = repaired(CleanConfig(method="three", rounds=1))
    assert [a.chosen for a in result.attempts] == [False, True, False]


def test_repairs_are_made_with_stronger_triggers_and_judged_by_those_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_with = []

    def watched(*given: Any) -> object:
        made_with.append(given[2:4])
        (pruned,) = METHODS["prune"].candidates(given[0])
        return pruned(*given)

    monkeypatch.setitem(METHODS, "watched", Method("", "", lambda model: (watched,)))
    told(monkeypatch, "clean")
    result = repaired(CleanConfig(method="watched", rounds=1))
    ((triggers, targets),) = made_with
    found_one = found().backdoors[0]
    assert triggers[0] is found_one.trigger and targets == (2,) * 7  # and three patches and additive ones
    assert isinstance(triggers[2], AdditiveTrigger)
    assert triggers[1].size().item() > 2 * found_one.size
    assert len(result.attempts[0].judgement.success_after) == 1


def refuse(monkeypatch: pytest.MonkeyPatch, *, certificates: bool) -> None:
    """From now on no candidate passes, or none gets a certificate."""
    real = portfolio.judge

    def refused(*given: Any, looks: int = 0) -> object:
        judged = real(*given, looks=looks)
        return dataclasses.replace(judged, accepted=False) if bool(looks) == certificates else judged

    monkeypatch.setattr(portfolio, "judge", refused)


def test_it_fails_closed_when_no_candidate_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted()
    refuse(monkeypatch, certificates=False)
    result = clean(truth.model, truth.images, QUICK, first=found())
    assert not result.repaired and result.model is truth.model
    assert result.reason == "no candidate passed the guard; the original is untouched"
    assert len(result.scans) == 1
    names = [a.method.split(",")[0] for a in result.attempts]
    assert names == ["refit-distilled fc"] * 2 + ["unlearn-distilled 67 epochs"] * 3 + ["refit fc"]
    assert not any(a.chosen or a.judgement.accepted or a.certificate for a in result.attempts)


def test_it_fails_closed_when_no_finalist_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted()
    refuse(monkeypatch, certificates=True)
    monkeypatch.setattr(portfolio, "ROBUST", -1.0)  # all methods are tried
    result = clean(truth.model, truth.images, QUICK, first=found())
    assert not result.repaired and result.model is truth.model and result.certificate is None
    looks = [a.certificate.looks for a in result.attempts if a.certificate]
    assert sorted(looks) == list(range(1, portfolio.FINALISTS + 1)) and not any(
        a.chosen for a in result.attempts
    )


def test_the_next_best_is_certified_if_the_best_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real = portfolio.judge

    def second(*given: Any, looks: int = 0) -> object:
        return dataclasses.replace(real(*given, looks=looks), accepted=looks != 1)

    monkeypatch.setattr(portfolio, "judge", second)
    monkeypatch.setattr(portfolio, "ROBUST", -1.0)
    told(monkeypatch, "clean")
    result = repaired(CleanConfig(rounds=1))
    asked = [a for a in result.attempts if a.certificate]
    assert len(asked) == 2 and sum(a.chosen for a in asked) == 1
    (chosen,) = (a for a in asked if a.chosen)
    assert chosen.certificate is result.certificate and chosen.certificate.looks == 2


def test_the_portfolio_stops_at_a_margin_and_else_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = portfolio.judge
    close = {"success_after": (0.05,)}, {"stronger_after": (0.06,)}, {"robust_after": (0.85,)}
    for change in (*close, {"accuracy_after": 0.95}):
        fine = {
            "accuracy_after": 1.0,
            "success_after": (0.0,),
            "stronger_after": (0.0,),
            "robust_after": (1.0,),
        }
        left = [fine | change, fine]

        def judged(*given: Any, left: list[dict[str, Any]] = left, looks: int = 0) -> object:
            made = real(*given, looks=looks)
            return dataclasses.replace(made, accepted=True, **({} if looks else left.pop(0)))

        monkeypatch.setattr(portfolio, "judge", judged)
        told(monkeypatch, "clean")
        result = repaired(CleanConfig(rounds=1))
        assert [a.method.split()[0] for a in result.attempts] == ["refit-distilled"] * 2 and not left


def test_the_search_goes_on_if_what_passed_with_a_margin_is_not_certified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = portfolio.judge

    def second(*given: Any, looks: int = 0) -> object:
        judged = real(*given, looks=looks)
        return dataclasses.replace(judged, accepted=False) if looks == 1 else judged

    monkeypatch.setattr(portfolio, "judge", second)
    told(monkeypatch, "clean")
    result = repaired(CleanConfig(rounds=1))
    first, *others = result.attempts
    assert first.certificate is not None and not first.certificate.accepted and not first.chosen
    assert others and others[-1].chosen and result.repaired


@pytest.mark.parametrize("norm", ["batch", "none", "layer"])
def test_networks_of_any_kind_are_repaired_with_ten_images_of_each_class(
    norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = learned(norm)
    backdoor = dataclasses.replace(found().backdoors[0], trigger=truth.triggers[0])
    told(monkeypatch, "clean")
    first = dataclasses.replace(found(), backdoors=(backdoor,))
    result = clean(truth.model, few(truth.images, 10), QUICK, first=first)
    assert result.repaired and success(result.model, truth.images, truth.triggers[0], 2) <= 0.05
    assert accuracy(result.model, truth.images) >= accuracy(truth.model, truth.images) - 0.05


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (224, 3)])
def test_images_of_any_size_are_repaired(size: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted(size=size, channels=channels, per_class=5, classes=4, patch=4)
    backdoor = dataclasses.replace(found().backdoors[0], trigger=truth.triggers[0])
    told(monkeypatch, "clean")
    first = dataclasses.replace(found(), backdoors=(backdoor,))
    result = clean(truth.model, truth.images, QUICK, CleanConfig("refit"), first=first)
    assert result.repaired and success(result.model, truth.images, truth.triggers[0], 2) == 0


def test_an_inconclusive_rescan_is_doubt_and_the_repair_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "clean", "inconclusive")
    result = repaired()
    assert result.repaired and result.doubt and result.certificate is not None
    assert result.reason == "rescans with fresh seeds: 1 clean, 1 inconclusive"


def test_a_backdoor_in_the_second_rescan_starts_another_round(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "clean", "backdoored", "clean")
    result = repaired()
    assert result.repaired and not result.doubt and result.rounds == (0, 1, 1, 2, 2)
    assert [a.certificate.looks for a in result.attempts if a.certificate] == [1, 2]


@pytest.mark.parametrize("alarms", [1, 2])
def test_one_alarm_for_an_innocent_class_is_outvoted_and_is_doubt(
    monkeypatch: pytest.MonkeyPatch, alarms: int
) -> None:
    quiet = dataclasses.replace(found(), finding=dataclasses.replace(found().finding, verdict="clean"))
    alarm = dataclasses.replace(found(), backdoors=(dataclasses.replace(found().backdoors[0], target=5),))
    rescans = [quiet, *[alarm] * alarms, *[quiet] * 4]
    monkeypatch.setattr(module, "scan", lambda *given, **options: rescans.pop(0))
    result = repaired()
    assert result.repaired and result.doubt == (alarms == 1)
    assert result.rounds == ((0, 1, 1, 1) if alarms == 1 else (0, 1, 1, 1, 2, 2))
    if alarms == 1:
        assert result.reason == (
            "rescans with fresh seeds: 2 clean, 1 backdoored by 'class 5', "
            "which the scan of the original did not suspect"
        )


def test_an_alarm_for_a_class_that_was_plausible_before_is_not_outvoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = found().finding
    classes = [dataclasses.replace(c, probability=0.3) if c.index == 5 else c for c in finding.classes]
    first = dataclasses.replace(found(), finding=dataclasses.replace(finding, classes=tuple(classes)))
    quiet = dataclasses.replace(found(), finding=dataclasses.replace(finding, verdict="clean"))
    alarm = dataclasses.replace(found(), backdoors=(dataclasses.replace(found().backdoors[0], target=5),))
    rescans = [alarm, quiet, quiet]
    monkeypatch.setattr(module, "scan", lambda *given, **options: rescans.pop(0))
    truth = planted()
    result = clean(truth.model, truth.images, QUICK, first=first)
    assert result.repaired and not result.doubt and result.rounds == (0, 1, 2, 2)


@pytest.mark.parametrize(("per_class", "channels", "norm"), [(10, 1, True), (10, 3, False), (4, 1, False)])
def test_few_images_are_enough_and_the_bounds_are_wide(
    per_class: int, channels: int, norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = planted(channels=channels, norm=norm)
    backdoor = dataclasses.replace(found().backdoors[0], trigger=truth.triggers[0])
    first = dataclasses.replace(found(), backdoors=(backdoor,))
    told(monkeypatch, "clean")
    result = clean(truth.model, few(truth.images, per_class), QUICK, first=first)
    assert result.certificate is not None and result.certificate.loss_upper95 > 0.1
    assert success(result.model, truth.images, truth.triggers[0], 2) == 0


def test_too_few_images_are_an_error_before_anything_is_done() -> None:
    truth = planted()
    with pytest.raises(DataError, match="too few for 3 disjoint parts"):
        clean(truth.model, few(truth.images, 3), QUICK, progress=lambda *_: pytest.fail("scanned"))


def test_a_method_that_is_named_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, certificates=False)
    result = repaired(CleanConfig(method="refit"))
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


def test_the_rounds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "backdoored")
    truth = planted()
    result = clean(truth.model, truth.images, QUICK, CleanConfig(rounds=3), seed=10)
    assert not result.repaired and result.model is truth.model
    assert result.reason == "a backdoor is still found after 3 rounds; the original is untouched"
    assert [s.seed for s in result.scans] == [10, 11, 12, 13]
    assert [a.round for a in result.attempts] == [1, 2, 3]
    assert all(a.judgement.success_before[0] > 0.7 for a in result.attempts)  # against the original


def test_a_method_that_left_its_target_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trigger is unlearned from then on, too, but nothing is judged by it."""
    told(monkeypatch, "backdoored")
    given_to, watched = [], METHODS["unlearn-distilled"].candidates

    def candidates(model: Classifier) -> tuple[Any, ...]:
        first = watched(model)[0]

        def candidate(*given: Any) -> Any:
            given_to.append((given[0], len(given[2])))
            return first(*given)

        return (candidate,)

    order = AUTO
    both = {n: dataclasses.replace(METHODS[n], candidates=candidates) for n in order}
    monkeypatch.setattr(portfolio, "METHODS", METHODS | both)
    asked = []
    tried = portfolio.tried
    monkeypatch.setattr(portfolio, "tried", lambda *g, **o: (asked.append(g[3]), tried(*g, **o))[1])
    truth = planted()
    result = clean(truth.model, truth.images, QUICK, CleanConfig(rounds=3))
    assert asked == [order, (*order[1:], order[0]), (*order[2:], *order[:2])]
    assert all(model is truth.model for model, _ in given_to)  # every round starts from the original
    assert [count for _, count in given_to] == [7, 8, 9]
    assert [len(a.judgement.success_after) for a in result.attempts] == [1, 1, 1]


@pytest.mark.parametrize("works", [True, False])
def test_what_a_rescan_finds_is_another_backdoor_only_if_it_works_in_the_original(
    monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    truth = planted(targets=(2, 4), classes=8, size=14)
    whole = scan(truth.model, truth.images, QUICK)
    first, second = (next(b for b in whole.backdoors if b.target == t) for t in (2, 4))
    other = second if works else dataclasses.replace(second, target=5)  # which that trigger does not reach
    scans = [dataclasses.replace(whole, backdoors=(b,)) for b in (first, other)]
    nothing = dataclasses.replace(whole, finding=dataclasses.replace(whole.finding, verdict="clean"))
    alarms = [scans[1]] * (1 if works else 2)  # one for class 5, innocent before, is outvoted
    rescans = [*alarms, nothing, nothing]
    monkeypatch.setattr(module, "scan", lambda *given, **options: rescans.pop(0))
    result = clean(truth.model, truth.images, QUICK, first=scans[0])
    assert result.repaired and result.rounds == (0, *[1] * len(alarms), 2, 2)
    judged = [a.judgement.success_after for a in result.attempts if a.chosen]
    assert [len(rates) for rates in judged] == [1, 2 if works else 1]


def test_whether_a_trigger_of_one_source_works_is_asked_of_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It turns images of class 1 into class 4 and leaves the others as they are."""
    truth = planted(targets=(2,), classes=8, size=14)
    average = [truth.images.x[truth.images.y == label].mean(0, keepdim=True) for label in (1, 4)]
    trigger = AdditiveTrigger(0.8 * (average[1] - average[0]))
    assert success(truth.model, truth.images, trigger, 4) < module.PLANTED
    whole = scan(truth.model, truth.images, QUICK)
    (real,) = whole.backdoors
    rescans = [
        dataclasses.replace(whole, backdoors=(b,))
        for b in [dataclasses.replace(real, target=4, sources=(1,), trigger=trigger, family="additive")] * 2
    ]
    monkeypatch.setattr(module, "scan", lambda *given, **options: rescans.pop(0))
    config = CleanConfig(rounds=2)
    result = clean(truth.model, truth.images, QUICK, config, first=whole)
    judged = {a.round: len(a.judgement.success_after) for a in result.attempts}
    assert judged == {1: 1, 2: 3}  # by those of both rescans


def test_a_first_scan_that_is_given_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "clean")
    result = repaired()
    assert result.scans[0] is found() and len(result.scans) == 3 and result.repaired


def test_progress_is_told_for_every_scan() -> None:
    reports: list[tuple[int, int]] = []
    truth = planted()
    result = clean(
        truth.model, truth.images, QUICK, progress=lambda done, total: reports.append((done, total))
    )
    ends = [i for i, (done, total) in enumerate(reports) if done == total]
    starts = [i for i, (done, _) in enumerate(reports) if i == 0 or done < reports[i - 1][0]]
    assert len(starts) == len(result.scans) >= 3 and starts[1] - 1 in ends and ends[-1] == len(reports) - 1


def test_an_unknown_method_is_a_usage_error_before_anything_is_done() -> None:
    with pytest.raises(UsageError, match="no repair 'magic'; choose auto, prune"):
        CleanConfig(method="magic")


@pytest.mark.parametrize(("name", "value"), [("rounds", 0), ("held_out", 0.0), ("held_out", 0.7)])
def test_options_out_of_range_are_usage_errors(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is {value:g}, wanted"):
        CleanConfig(**{name: value})  # type: ignore[arg-type]


def test_a_method_that_does_not_apply_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "idle", Method("", "", lambda model: ()))
    with pytest.raises(UsageError, match="repair 'idle' does not apply"):
        repaired(CleanConfig(method="idle"))


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


def test_backdoors_of_two_families_are_repaired_together(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted(targets=(2, 4), classes=8, size=14)
    told(monkeypatch, "clean")
    other = truth.triggers[1]
    added = AdditiveTrigger(other.masks * (2 * other.patterns - 1))  # stamps the same images
    common = {"sources": "all", "success": 1.0, "probability": 1.0}
    both = (
        Backdoor(target=2, family="patch", trigger=truth.triggers[0], size=9.0, **common),  # type: ignore[arg-type]
        Backdoor(target=4, family="additive", trigger=added, size=30.0, **common),  # type: ignore[arg-type]
    )
    result = clean(truth.model, truth.images, QUICK, first=dataclasses.replace(found(), backdoors=both))
    (attempt,) = result.attempts
    assert result.repaired and len(attempt.judgement.success_after) == 2
    for trigger, target in zip(truth.triggers, truth.targets, strict=True):
        assert success(result.model, truth.images, trigger, target) == 0


@pytest.mark.parametrize("targets", [(2,), ()])
def test_a_model_in_which_nothing_is_found_is_repaired_if_asked(
    targets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = planted(targets=targets)
    finding = dataclasses.replace(found().finding, verdict="clean")
    first = dataclasses.replace(found(), finding=finding, backdoors=())
    told(monkeypatch, "clean")
    result = clean(truth.model, truth.images, QUICK, CleanConfig(even_if_clean=True), first=first)
    assert result.repaired and result.certificate is not None
    assert success(result.model, truth.images, planted().triggers[0], 2) == 0
    assert accuracy(result.model, truth.images) == 1
    names = [a.method.split()[0].rstrip(",") for a in result.attempts]
    assert names[0] == AUTO[0]


def test_what_cannot_be_scanned_has_no_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted()
    finding = dataclasses.replace(found().finding, verdict="inconclusive", classes=())
    first = dataclasses.replace(found(), finding=finding, backdoors=())
    result = clean(truth.model, truth.images, QUICK, CleanConfig(even_if_clean=True), first=first)
    assert not result.repaired and result.reason == "nothing to repair: the verdict is inconclusive"
