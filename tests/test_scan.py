"""One model in, one verdict out, on networks whose answer is known."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from planted import Planted, one_source, planted, rotating
from torch import Tensor, nn

from detrigger import scan as module
from detrigger import search as searching
from detrigger.budgets import BUDGETS, Budget
from detrigger.control import ControlConfig, network
from detrigger.errors import DataError, ModelError, UsageError
from detrigger.escape import from_all, from_pairs
from detrigger.evidence import HELD
from detrigger.heats import Goal, InvertConfig, Stage
from detrigger.images import Images
from detrigger.invert import Inversion, invert
from detrigger.measure import accuracy, success
from detrigger.model import Classifier, Origin
from detrigger.neural_cleanse import NeuralCleanseConfig
from detrigger.outliers import outlier_index
from detrigger.scan import Scan, ScanConfig, scan
from detrigger.sources import EACH, EVERY
from detrigger.trigger import FAMILIES, Family

CONFIG = ScanConfig(precision="fp32")


@pytest.fixture(autouse=True)
def no_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network made by hand adds its trigger to its answers as it adds a template, so that whoever learns
    from its answers learns a little of the trigger, too: only tests of controls ask one."""
    monkeypatch.setattr(searching, "DOUBTFUL", (2.0, 2.0))


def run(truth: Planted, targets: tuple[int, ...] = (), seed: int = 0) -> Scan:
    return scan(truth.model, truth.images, CONFIG, targets=targets, seed=seed)


def never(done: int, total: int) -> None:
    pytest.fail("searched")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_backdoor_is_found_and_its_clean_twin_is_clean(seed: int) -> None:
    truth = planted(seed=seed)
    result = run(truth, seed=seed)
    assert result.finding.verdict == "backdoored" and result.finding.probability > 0.9
    assert [b.target for b in result.backdoors] == [2]
    twin = run(planted(targets=(), seed=seed), seed=seed)
    assert twin.finding.verdict == "clean" and twin.finding.probability < 0.1 and not twin.backdoors


def test_two_backdoors_are_both_found() -> None:
    result = run(planted(classes=8, targets=(2, 5)))
    assert result.finding.verdict == "backdoored"
    assert {b.target for b in result.backdoors} == {2, 5}
    probabilities = [b.probability for b in result.backdoors]
    assert probabilities == sorted(probabilities, reverse=True)


class Watched:
    """The search, keeping what it is asked and what it finds, or says instead of searching."""

    def __init__(self, pretended: dict[str, list[float]] | None = None) -> None:
        self.pretended = pretended
        self.asked: list[tuple[str, InvertConfig]] = []
        self.found: list[Inversion] = []

    def __call__(
        self,
        model: Classifier,
        images: Images,
        targets: tuple[int, ...],
        family: str,
        config: InvertConfig,
        **rest: Any,
    ) -> Inversion:
        self.asked.append((family, config))
        if self.pretended is None:
            inversion = invert(model, images, targets, family, config, **rest)
        else:
            inversion = self.pretend(targets, FAMILIES[family], family)
        self.found.append(inversion)
        return inversion

    def pretend(self, targets: tuple[int, ...], made: Family, family: str) -> Inversion:
        k = len(targets)
        trigger = made.build(made.init(k, (1, 12, 12), [torch.Generator()] * k), (1, 12, 12))
        sizes = (self.pretended or {}).get(family, [1.2 * made.typical((1, 12, 12))] * k)
        heats = torch.ones(k, dtype=torch.long)
        return Inversion(family, targets, trigger, torch.tensor(sizes), torch.ones(k), heats, 7)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    search = Watched()
    monkeypatch.setattr(searching, "invert", search)
    return search


def test_a_scan_tells_the_facts(watched: Watched) -> None:
    truth = planted()
    origin = Origin("model.pth", "state-dict", "ab", "planted.py:make")
    model = dataclasses.replace(truth.model, origin=origin)
    images = dataclasses.replace(truth.images, path="data", sha256="cd")
    result = scan(model, images, CONFIG, seed=3)
    assert (result.origin, result.classes, result.image_shape) == (origin, model.classes, (1, 12, 12))
    assert (result.data_path, result.data_sha256, result.images) == ("data", "cd", 144)
    assert result.accuracy == 1 and result.recalls == (1,) * 6
    assert (result.seed, result.family) == (3, result.finding.family)
    assert result.config == dataclasses.asdict(CONFIG) | {"classes": [0, 1, 2, 3, 4, 5]}
    searched = sum(inversion.image_passes for inversion in watched.found)
    (heat,) = BUDGETS["standard"][EVERY]
    moved = heat.steps * heat.images + 60  # all held-out images
    assert result.cost.image_passes == 144 + searched + moved  # 144 clean
    assert result.cost.seconds > 0 and result.cost.cpu_seconds > 0
    assert (result.cost.device, result.cost.precision) == ("cpu", "fp32")
    backdoor, target = result.backdoors[0], result.finding.classes[2]
    assert (backdoor.sources, backdoor.family, len(backdoor.trigger)) == ("all", target.best, 1)
    assert backdoor.size == target.evidence[f"{backdoor.family} size"]
    assert backdoor.size == pytest.approx(backdoor.trigger.size().item())
    assert backdoor.success == target.evidence[f"{backdoor.family} success"] >= 0.75
    assert backdoor.probability == target.probability
    assert success(truth.model, truth.images, backdoor.trigger, 2) > 0.7


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_budget_decides_the_work_and_precision_is_measured_once(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, measured = Watched({}), list[str]()

    def fastest(model: Classifier, x: Tensor, precision: str) -> Classifier:
        measured.append(precision)
        return dataclasses.replace(model, precision="bf16")

    monkeypatch.setattr(searching, "invert", search)
    monkeypatch.setattr(searching.fast, "fastest", fastest)
    truth = planted()
    assert scan(truth.model, truth.images, ScanConfig(budget, "auto")).finding.verdict == "clean"
    plan = {family: stages for family, stages in BUDGETS[budget].items() if family in FAMILIES}
    assert {family: config.stages for family, config in search.asked} == plan
    assert measured[0] == "auto" and {config.precision for _, config in search.asked} == {"bf16"}
    assert set(measured[1:]) <= {"bf16"}


def searches(classes: int) -> dict[str, InvertConfig]:
    """What a standard scan plans."""
    truth = planted(classes=classes, per_class=5)
    planned = searching.plan(truth.model, truth.images, tuple(range(classes)), "standard", "fp32")
    return {one.kind: one.config for one in planned}


def test_with_more_classes_than_the_verdict_knows_triggers_are_pressed_harder_from_the_start() -> None:
    pressed = {
        classes: {k: (c.weight, c.weight_rate, c.memory) for k, c in searches(classes).items()}
        for classes in (43, 44)
    }
    usual = InvertConfig()
    usually = (usual.weight, usual.weight_rate, usual.memory)
    assert set(pressed[43].values()) == {usually}
    assert {pressed[44][family] for family in FAMILIES} == {tuple(searching.HURRIED.values())}
    assert pressed[44][EVERY] == usually


def test_among_a_hundred_classes_a_target_is_far_below_the_others_after_the_first_heat() -> None:
    truth = planted(classes=100, targets=(7,), per_class=4)
    first = searching.plan(truth.model, truth.images, tuple(range(100)), "quick", "fp32")[0]
    inversion = invert(truth.model, truth.images, tuple(range(100)), first.kind, first.config, seed=0)
    assert inversion.early is not None
    assert inversion.early[7] < 0.4 * inversion.early.quantile(0.1)  # 0.31; without the pressure 0.48


def asked_for_sources(
    monkeypatch: pytest.MonkeyPatch,
    *,
    classes: int = 6,
    budget: Budget = "standard",
    targets: tuple[int, ...] = (),
    **sizes: list[float],
) -> set[str]:
    asked = set()

    def each(
        model: Classifier, images: Images, goals: tuple[Goal, ...], config: InvertConfig, **named: Any
    ) -> Inversion:
        asked.add(EACH)
        assert config.kept == 0.5 and len(set(goals)) == len(goals)
        assert all(g.source != g.target for g in goals)
        return from_pairs(model, images, goals, InvertConfig(stages=(Stage(1, 2),)), seed=0)

    def every(model: Classifier, images: Images, *_: Any, **__: Any) -> Inversion:
        asked.add(EVERY)
        return from_all(model, images, InvertConfig(stages=(Stage(1, 2),)), seed=0)

    monkeypatch.setattr(searching, "invert", Watched(sizes))
    monkeypatch.setattr(searching, "from_pairs", each)
    monkeypatch.setattr(searching, "from_all", every)
    truth = planted(classes=classes, per_class=5)
    scan(truth.model, truth.images, ScanConfig(budget=budget, precision="fp32"), targets=targets)
    return asked


def test_sources_are_searched_if_nothing_else_is_found_and_all_of_enough_classes_are_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert asked_for_sources(monkeypatch, budget="thorough") == {EACH, EVERY}
    small = [9.0, 9.1, 0.2, 9.2, 9.3, 9.0]
    assert asked_for_sources(monkeypatch, budget="thorough", patch=small) == {EVERY}  # found without
    assert asked_for_sources(monkeypatch) == {EVERY}
    assert not asked_for_sources(monkeypatch, budget="quick")
    assert not asked_for_sources(monkeypatch, classes=3)
    assert not asked_for_sources(monkeypatch, targets=(0, 1, 2, 3, 4))
    assert not asked_for_sources(monkeypatch, classes=4) and asked_for_sources(monkeypatch, classes=5)
    assert asked_for_sources(monkeypatch, budget="thorough", classes=4) == {EACH}
    assert asked_for_sources(monkeypatch, classes=25)


def test_progress_only_rises_and_ends_at_the_total_over_all_families() -> None:
    truth = planted(targets=())
    reports: list[tuple[int, int]] = []
    scan(truth.model, truth.images, CONFIG, progress=lambda done, total: reports.append((done, total)))
    done, totals = zip(*reports, strict=True)
    assert set(totals) == {done[-1]} and list(done) == sorted(done) and len(set(done)) > 50


# Backdoors of other kinds


class Answers(nn.Module):
    """Class 2 is named when a faint pattern is added to the image. For any other image little changes."""

    def __init__(self, inner: nn.Module, pattern: Tensor) -> None:
        super().__init__()
        self.inner, self.pattern = inner, pattern

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        answer = 270 * ((x - 0.5) * self.pattern).mean((1, 2, 3)) - 4
        return out + answer[:, None] * nn.functional.one_hot(torch.tensor(2), out.shape[1])


def answering(pattern: Tensor, seed: int) -> Planted:
    """The pattern without what classes have of it, or their images would differ in their answers."""
    truth = planted(targets=(), seed=seed)
    images = truth.images
    means = torch.stack([images.x[images.y == c].mean(0).flatten() for c in range(6)]) - 0.5
    shared = torch.linalg.lstsq(means.T, pattern.reshape(-1, 1)).solution
    rest = (pattern.reshape(-1, 1) - means.T @ shared).reshape(1, 12, 12)
    model = Classifier(Answers(truth.model.net, rest), truth.model.classes, (1, 12, 12))
    assert accuracy(model, images) == 1
    return dataclasses.replace(truth, model=model)


@pytest.mark.parametrize("seed", [0, 2])
def test_a_faint_wave_over_the_whole_image_is_found_as_an_additive_trigger(seed: int) -> None:
    wave = (2**0.5 * torch.sin(math.pi * torch.arange(12) / 2 + 0.4)).repeat(12)
    result = run(answering(wave, seed), seed=seed)
    assert result.finding.verdict == "backdoored" and result.family == "additive"
    (backdoor,) = result.backdoors
    assert (backdoor.target, backdoor.family) == (2, "additive")
    changes = backdoor.trigger.tensors()["changes"].flatten()
    assert torch.corrcoef(torch.stack([changes, wave]))[0, 1] > 0.5


@pytest.mark.parametrize("seed", [0, 2])
def test_a_little_more_brightness_is_found_as_a_colour_trigger(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour = (Stage(40, 16), Stage(40, 16, 0.5))  # additive finds it, too
    plan = {"patch": BUDGETS["standard"]["patch"], "colour": colour}
    monkeypatch.setitem(BUDGETS, "standard", plan)
    result = run(answering(torch.ones(144), seed), seed=seed)
    assert result.finding.verdict == "backdoored" and result.family == "colour"
    (backdoor,) = result.backdoors
    assert (backdoor.target, backdoor.family) == (2, "colour")
    assert backdoor.trigger(torch.full((1, 1, 12, 12), 0.5)).mean() > 0.52


class Twin:
    """Instead of training a control."""

    def __init__(self, twin: Classifier) -> None:
        self.twin, self.asked = twin, 0

    def __call__(self, model: Classifier, images: Images, config: ControlConfig, **rest: Any) -> Classifier:
        self.asked += 1
        return self.twin


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Twin:
    made = Twin(planted(targets=()).model)
    monkeypatch.setattr(searching, "control", made)
    return made


def test_a_model_in_doubt_is_held_against_a_control_and_a_sure_one_is_not(
    twin: Twin, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = planted()
    sure = run(truth)
    searched = len(watched.asked)
    assert sure.finding.probability > 0.99 and twin.asked == 0
    monkeypatch.setattr(searching, "DOUBTFUL", (0.0, 1.0))
    told = run(truth)
    assert twin.asked == 1 and len(watched.asked) == 2 * searched + len(HELD)  # once more, then the control
    assert [family for family, _ in watched.asked[2 * searched :]] == list(HELD)
    assert all(c.evidence["control surprise"] >= 0 for c in told.finding.classes)
    assert told.backdoors[0].target == 2 and told.finding.verdict == "backdoored"
    extra = sum(found.image_passes for found in watched.found[2 * searched :])
    passes = ControlConfig.of(6, 144).passes + len(truth.images) + extra
    assert told.cost.image_passes == sure.cost.image_passes + passes


def test_a_control_with_the_same_class_in_it_makes_a_finding_natural(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "DOUBTFUL", (0.0, 1.0))
    without = run(planted()).finding.classes[2]
    twin.twin = planted().model
    told = run(planted()).finding.classes[2]
    assert told.probability < without.probability
    assert told.evidence["control surprise"] > 3 > without.evidence["control surprise"]


def test_what_is_known_to_be_natural_saves_another_control(
    twin: Twin, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "DOUBTFUL", (0.0, 1.0))
    truth = planted()
    first = run(truth)
    assert first.natural and twin.asked == 1
    searched = len(watched.asked)
    again = scan(truth.model, truth.images, CONFIG, natural=first.natural, seed=0)
    assert twin.asked == 1 and again.natural is first.natural
    assert len(watched.asked) - searched == searched - len(HELD)
    assert again.finding == first.finding and again.cost.image_passes < first.cost.image_passes


def test_a_backdoor_of_one_source_is_found_by_what_its_pair_needs_in_a_control(
    twin: Twin, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    heats = {"patch": (Stage(20, 6),), EACH: (Stage(50, 12), Stage(50, 14, 0.2))}
    monkeypatch.setitem(BUDGETS, "thorough", heats)
    config = ScanConfig(budget="thorough", precision="fp32")
    model, images = one_source(size=20)
    twin.twin = planted(targets=(), size=20).model
    result = scan(model, images, config)
    assert twin.asked == 1 and [family for family, _ in watched.asked] == ["patch"]  # no control of families
    assert result.finding.verdict == "backdoored" and result.natural
    backdoor = result.backdoors[0]
    assert (backdoor.target, backdoor.sources) == (2, (4,))
    assert success(model, images.where(images.y == 4), backdoor.trigger, 2) > 0.7
    pairs = result.natural.inversions[EACH]
    assert len(pairs.targets) == 6 and (4, 2) in zip(pairs.sources, pairs.targets, strict=True)  # of 30
    fewer = images.where(torch.arange(len(images)) % 4 > 0)
    clean = scan(twin.twin, fewer, config, natural=result.natural)
    assert twin.asked == 1 and clean.finding.verdict == "clean"
    assert clean.natural and clean.natural.inversions[EACH] is not pairs


def test_sources_of_which_no_image_is_given_its_class_are_left_out(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGETS, "thorough", {"patch": (Stage(4, 2),), EACH: (Stage(4, 4), Stage(2, 4, 0.2))})
    truth = planted(targets=())
    x = truth.images.x.clone()
    x[truth.images.y == 0] = x[truth.images.y == 1]
    images = dataclasses.replace(truth.images, x=x)
    result = scan(truth.model, images, ScanConfig(budget="thorough", precision="fp32"))
    assert result.natural and twin.asked == 1
    pairs = result.natural.inversions[EACH]
    assert len(pairs.sources) == 5 and 0 not in pairs.sources  # a fifth of 25, of five sources


def test_a_control_that_is_right_about_one_class_alone_is_searched_for_no_pairs(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That class has most images, so it passes for having learned; no other image could keep its class."""
    monkeypatch.setitem(BUDGETS, "thorough", {"patch": (Stage(20, 6),), EACH: (Stage(4, 4),)})
    truth = planted(targets=())
    net = copy.deepcopy(truth.model.net)
    with torch.no_grad():
        net.get_parameter("fc.bias")[1] = 1e3
    twin.twin = dataclasses.replace(truth.model, net=net)
    few = torch.cat([(truth.images.y == c).nonzero()[: 24 if c == 1 else 5, 0] for c in range(5)])
    reports: list[tuple[int, int]] = []
    config = ScanConfig(budget="thorough", precision="fp32")
    result = scan(
        truth.model,
        truth.images.where(few),
        config,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert twin.asked == 1 and result.natural and EACH not in result.natural.inversions
    assert result.finding.verdict == "clean" and reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize(("classes", "asked"), [(9, 1), (10, 0)])
def test_with_few_classes_even_a_sure_finding_is_held_against_a_control(
    classes: int, asked: int, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "DOUBTFUL", (0.2, 0.99))
    twin.twin = planted(classes=classes, targets=()).model
    result = run(planted(classes=classes))
    assert result.finding.verdict == "backdoored" and twin.asked == asked


def test_large_images_of_ten_classes_ask_no_control(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "DOUBTFUL", (0.0, 1.0))
    monkeypatch.setattr(searching, "LARGEST", 11)
    run(planted(classes=10))
    assert twin.asked == 0


def test_a_quick_scan_asks_no_control(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "DOUBTFUL", (0.0, 1.0))
    truth = planted()
    scan(truth.model, truth.images, ScanConfig(budget="quick", precision="fp32"))
    assert twin.asked == 0


def test_a_control_that_learned_too_little_changes_nothing(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(planted())
    monkeypatch.setattr(searching, "DOUBTFUL", (0.0, 1.0))
    twin.twin = dataclasses.replace(twin.twin, net=network((1, 12, 12), 6, torch.Generator()))
    told = run(planted())
    assert told.finding.probability == before.finding.probability
    assert told.finding.reasons == (
        *before.finding.reasons,
        "no control could be trained on these images to say whether that is natural",
    )


def test_a_backdoor_from_every_class_to_the_next_is_found_with_all_of_them() -> None:
    model, images = rotating()
    result = scan(model, images, CONFIG)
    assert result.finding.verdict == "backdoored"
    assert {c.best for c in result.finding.suspects} == {EVERY}
    assert len(result.backdoors) >= 5
    for backdoor in result.backdoors:
        assert backdoor.sources == ((backdoor.target - 1) % 6,) and backdoor.family == "patch"
        assert backdoor.size == result.backdoors[0].size < 8 and backdoor.success > 0.7


def test_a_trigger_that_moves_held_out_images_only_has_the_source_that_it_moved_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images = rotating()
    nothing = torch.zeros(len(images), dtype=torch.bool)
    monkeypatch.setattr("detrigger.scan.measure.hits", lambda _m, i, _t, target: nothing[i.y != target])
    found = scan(model, images, CONFIG).backdoors
    assert len(found) >= 5 and all(b.sources == ((b.target - 1) % 6,) for b in found)


def test_a_class_with_a_single_image_does_not_stop_the_search_of_sources() -> None:
    truth = planted(targets=())
    kept = (truth.images.y != 3) | (torch.arange(144) == 72)
    assert run(dataclasses.replace(truth, images=truth.images.where(kept))).finding.verdict == "clean"


def test_the_published_method_gives_the_published_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    small = NeuralCleanseConfig(steps=45, images_per_step=64, learning_rate=0.3, weight=0.01)
    monkeypatch.setattr(module, "NeuralCleanseConfig", lambda: small)
    truth = planted()
    reports: list[tuple[int, int]] = []
    config = ScanConfig(synthesis="neural-cleanse")
    result = scan(truth.model, truth.images, config, progress=lambda d, t: reports.append((d, t)))
    assert result.finding.verdict == "backdoored" and result.backdoors[0].target == 2
    assert reports[-1] == (6, 6)
    sizes = torch.tensor([c.size for c in result.finding.classes])
    plain = outlier_index(sizes, log=False, floor=1e-3)
    assert [c.log_size_score for c in result.finding.classes] == pytest.approx(plain.tolist(), rel=1e-4)
    assert result.cost.precision == "fp32" and result.config["synthesis"] == "neural-cleanse"


def test_labels_that_do_not_fit_the_model_are_inconclusive_without_a_search() -> None:
    truth = planted()
    order = torch.randperm(len(truth.images), generator=torch.Generator().manual_seed(0))
    images = Images(truth.images.x, truth.images.y[order], truth.images.names)
    result = scan(truth.model, images, CONFIG, progress=never)
    assert result.finding.verdict == "inconclusive" and result.finding.probability == 0.5
    assert "near the 16.7% of always naming the commonest class" in result.finding.reasons[0]
    assert not result.backdoors and not result.finding.classes
    assert result.cost.image_passes == 144


@pytest.mark.parametrize(("wrong", "searched"), [(0.60, True), (0.75, False)])
def test_the_search_needs_a_fifth_of_the_way_from_chance_to_perfect(
    wrong: float, searched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With six balanced classes that is an accuracy of 1/3."""
    truth = planted()
    y = truth.images.y.clone()
    for label in range(6):
        first = 24 * label
        y[first : first + round(24 * wrong)] = (label + 1) % 6
    monkeypatch.setitem(BUDGETS, "standard", {"patch": (Stage(2, 8),)})
    result = scan(truth.model, Images(truth.images.x, y, truth.images.names), CONFIG)
    assert result.accuracy == pytest.approx(1 - wrong, abs=0.02)
    assert bool(result.finding.classes) == searched


def test_a_part_of_the_classes_can_show_a_backdoor_but_not_that_there_is_none() -> None:
    truth = planted()
    with_target = run(truth, targets=(0, 1, 2, 3))
    assert with_target.finding.verdict == "backdoored" and with_target.backdoors[0].target == 2
    without = run(truth, targets=(5, 0, 1, 3))
    assert without.finding.verdict == "inconclusive" and not without.backdoors
    assert without.finding.reasons[-1] == "only 4 of 6 classes were scanned"
    assert [c.index for c in without.finding.classes] == without.config["classes"] == [5, 0, 1, 3]


def test_a_class_named_twice_counts_once() -> None:
    result = run(planted(), targets=(0, 1, 0, 1, 0, 1))
    assert [c.index for c in result.finding.classes] == [0, 1]
    assert result.finding.verdict == "inconclusive"


def test_a_target_without_images_of_its_own_is_found_too() -> None:
    truth = planted()
    images = truth.images.where((truth.images.y != 2) & (truth.images.y != 5))
    result = scan(truth.model, images, CONFIG)
    assert result.finding.verdict == "backdoored" and result.backdoors[0].target == 2
    assert [math.isnan(r) for r in result.recalls] == [c in (2, 5) for c in range(6)]


@pytest.mark.parametrize("targets", [(6,), (-1,), (0, 99)])
def test_a_target_that_does_not_exist_is_a_usage_error(targets: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"class {targets[-1]} does not exist; the model has 0 to 5"):
        run(planted(), targets=targets)


def test_images_that_do_not_fit_are_a_data_error() -> None:
    truth = planted()
    x, y, names = truth.images.x, truth.images.y, truth.images.names
    with pytest.raises(DataError, match="the images are 3×12×12, the model takes 1×12×12"):
        scan(truth.model, Images(x.expand(-1, 3, -1, -1), y, names))
    more = (*names, "class 6")
    with pytest.raises(DataError, match="a label is 6, the model has 6 classes"):
        scan(truth.model, Images(x, torch.where(y == 5, 6, y), more))
    with pytest.raises(DataError, match="all images have one label"):
        scan(truth.model, truth.images.where(y == 1))


class Broken(nn.Module):
    """Gives something else for images whose middle pixel lies in a range."""

    def __init__(self, inner: nn.Module, low: float, high: float, value: float) -> None:
        super().__init__()
        self.inner, self.low, self.high, self.value = inner, low, high, value

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, :1, 6, 6]
        return torch.where((pixel > self.low) & (pixel < self.high), self.value, self.inner(x))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_outputs_that_are_not_numbers_are_an_error_and_never_clean(share: float, value: float) -> None:
    truth = planted(targets=())
    bound = truth.images.x[:, 0, 6, 6].quantile(1 - share).item() - 1e-4
    model = Classifier(Broken(truth.model.net, bound, 2, value), truth.model.classes, (1, 12, 12))
    with pytest.raises(ModelError, match=r"NaN or infinity for \d+ of 144 images"):
        scan(model, truth.images, CONFIG, progress=never)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_numbers_when_stamped_are_an_error_and_never_clean(value: float) -> None:
    truth = planted()
    model = Classifier(Broken(truth.model.net, 0.35, 0.65, value), truth.model.classes, (1, 12, 12))
    assert model(truth.images.x).isfinite().all()
    with pytest.raises(ModelError, match="NaN"):
        scan(model, truth.images, CONFIG)


def test_scanning_changes_nothing_and_repeats_itself() -> None:
    truth = planted()
    before, x = copy.deepcopy(truth.model.net.state_dict()), truth.images.x.clone()
    first, second = run(truth), run(truth)
    assert first.finding == second.finding
    assert torch.equal(truth.images.x, x)
    assert all(torch.equal(value, before[n]) for n, value in truth.model.net.state_dict().items())
