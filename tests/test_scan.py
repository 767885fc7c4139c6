"""One model in, one verdict out, on networks whose answer is known."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from planted import Planted, planted
from torch import Tensor, nn

from detrigger import scan as module
from detrigger.detect import outlier_index
from detrigger.errors import DataError, ModelError, UsageError
from detrigger.images import Images
from detrigger.invert import InvertConfig
from detrigger.model import Classifier, Origin
from detrigger.neural_cleanse import NeuralCleanseConfig
from detrigger.scan import BUDGETS, Scan, ScanConfig, scan

CONFIG = ScanConfig(precision="fp32")


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


def test_a_scan_tells_the_facts() -> None:
    truth = planted()
    origin = Origin("model.pth", "state-dict", "ab", "planted.py:make")
    model = dataclasses.replace(truth.model, origin=origin)
    images = dataclasses.replace(truth.images, path="data", sha256="cd")
    result = scan(model, images, CONFIG, seed=3)
    assert (result.origin, result.classes, result.image_shape) == (origin, model.classes, (1, 12, 12))
    assert (result.data_path, result.data_sha256, result.images) == ("data", "cd", 144)
    assert result.accuracy == 1 and result.recalls == (1,) * 6
    assert (result.seed, result.family) == (3, "patch")
    assert result.config == dataclasses.asdict(CONFIG) | {"classes": [0, 1, 2, 3, 4, 5]}
    budget = BUDGETS["standard"]
    searched = 6 * budget.steps * budget.images_per_step
    assert result.cost.image_passes == 144 + searched + 6 * 50  # 144 clean; of each class 10 are held out
    assert result.cost.seconds > 0 and result.cost.cpu_seconds > 0
    assert (result.cost.device, result.cost.precision) == ("cpu", "fp32")
    backdoor, target = result.backdoors[0], result.finding.classes[2]
    assert backdoor.size == target.size == pytest.approx(backdoor.trigger.size().item())
    assert backdoor.success == target.success > 0.85
    assert backdoor.probability == target.evidence["probability"] == result.finding.probability
    assert (backdoor.sources, backdoor.family, len(backdoor.trigger)) == ("all", "patch", 1)


def test_the_budget_decides_the_work_and_auto_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[InvertConfig] = []
    monkeypatch.setattr(
        module, "invert", lambda m, i, t, family, config, **rest: asked.append(config) or pytest.skip()
    )
    truth = planted()
    for budget in BUDGETS:
        with pytest.raises(pytest.skip.Exception):
            scan(truth.model, truth.images, ScanConfig(budget=budget))
    assert [(c.steps, c.images_per_step, c.precision) for c in asked] == [
        (60, 8, "auto"),
        (120, 16, "auto"),
        (400, 32, "auto"),
    ]


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
    quick = {"standard": InvertConfig(steps=2)}
    monkeypatch.setattr(module, "BUDGETS", quick)
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
