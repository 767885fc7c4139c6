"""Trigger synthesis on networks whose triggers are known."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from planted import planted
from torch import Tensor, nn

from detrigger import invert as module
from detrigger import measure
from detrigger.descent import APART, BETAS, KEEPING, KEPT, adam, losses
from detrigger.errors import DataError, ModelError
from detrigger.heats import (
    LEAST,
    Chunk,
    Goal,
    InvertConfig,
    Map,
    Stage,
    Tensors,
    Tick,
    Work,
    serial,
    start,
)
from detrigger.images import Images
from detrigger.invert import Inversion, invert
from detrigger.measure import success
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES, Trigger
from detrigger.trigger.patch import PatchFamily, PatchTrigger

STANDARD = InvertConfig(precision="fp32")
EVERY = tuple(range(6))


def one_heat(steps: int, images: int = 8, **changed: Any) -> InvertConfig:
    """In which every class takes part."""
    return InvertConfig(stages=(Stage(steps, images),), precision="fp32", **changed)


SHORT = one_heat(30)
RACE = InvertConfig(stages=(Stage(30, 8), Stage(10, 8, 0.5), Stage(5, 16, 0.1)), precision="fp32")


class Watched:
    """The patch family, keeping the images that triggers are stamped on, one list per trigger."""

    learning_rate = PatchFamily().learning_rate

    def __init__(self) -> None:
        self.stamped: list[tuple[int, Tensor]] = []

    def init(self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]) -> Tensors:
        parameters = PatchFamily().init(k, shape, generators)
        return parameters | {"target": torch.zeros(k)}

    def build(self, parameters: Tensors, shape: tuple[int, int, int]) -> Trigger:
        return WatchedTrigger(
            PatchFamily().build(parameters, shape), self, tuple(range(len(parameters["mask"])))
        )

    def load(self, tensors: Tensors) -> Trigger:
        raise NotImplementedError

    def unit(self) -> str:
        return "pixels"

    def typical(self, shape: tuple[int, int, int]) -> float:
        return PatchFamily().typical(shape)


@dataclasses.dataclass(frozen=True)
class WatchedTrigger:
    inner: PatchTrigger
    family: Watched
    rows: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for i, row in enumerate(self.rows):
            self.family.stamped.append((row, (x[i] if x.ndim == 5 else x).detach().clone()))
        return self.inner(x)

    def __getitem__(self, i: int) -> WatchedTrigger:
        return WatchedTrigger(self.inner[i], self.family, (self.rows[i],))

    def __len__(self) -> int:
        return len(self.rows)

    def size(self) -> Tensor:
        return self.inner.size()

    def tensors(self) -> Tensors:
        return self.inner.tensors()

    def picture(self) -> Tensor:
        return self.inner.picture()

    def mask(self) -> Tensor:
        return self.inner.mask()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    family = Watched()
    monkeypatch.setitem(FAMILIES, "patch", family)
    return family


def numbered(images: Images) -> Images:
    """The upper left pixel of each image tells which one it is."""
    x = images.x.clone()
    x[:, 0, 0, 0] = torch.linspace(0, 1, len(x))
    return Images(x, images.y, images.names)


def seen(x: Tensor, images: Images) -> list[int]:
    return (x[:, 0, 0, 0] * (len(images) - 1)).round().long().tolist()


@pytest.mark.parametrize("norm", [True, False])
def test_it_finds_the_planted_triggers(norm: bool) -> None:
    truth = planted(targets=(2, 4), norm=norm)
    found = invert(truth.model, truth.images, EVERY, "patch", STANDARD, seed=0)
    assert found.family == "patch" and found.targets == EVERY and found.precision == "fp32"
    others = [found.size[t] for t in EVERY if t not in truth.targets]
    for target, planted_trigger in zip(truth.targets, truth.triggers, strict=True):
        assert found.size[target] < 0.4 * min(others)
        assert found.success[target] >= 0.85
        mask, corner = found.trigger[target].mask(), planted_trigger.masks
        assert (mask * corner).sum() > 0.8 * mask.sum()  # 9 of 144 pixels
        weighed = (found.trigger[target].picture() - planted_trigger.picture()).abs() * mask * corner
        assert weighed.sum() < 0.35 * mask.sum()  # the colours too, as far as the mask is there


def test_sizes_and_success_are_those_of_the_triggers_returned() -> None:
    truth = planted()
    found = invert(truth.model, truth.images, (0, 2), "patch", SHORT, seed=0)
    assert torch.equal(found.size, found.trigger.size()) and len(found.trigger) == 2
    assert not found.size.requires_grad and not found.trigger.mask().requires_grad
    everything = dataclasses.replace(SHORT, measured=10_000)
    for i, target in enumerate(found.targets):
        full = invert(truth.model, truth.images, (target,), "patch", everything, seed=0)
        held_out = module.split(truth.images, (0.6, 0.4), seed=0)[1]
        assert full.success[0] == pytest.approx(success(truth.model, held_out, found.trigger[i], target))


def test_a_class_is_never_searched_or_measured_on_its_own_images(watched: Watched) -> None:
    truth = planted()
    images = numbered(truth.images)
    targets = (3, 0, 5)
    invert(truth.model, images, targets, "patch", one_heat(12), seed=0)
    used = [set[int](), set[int](), set[int]()]
    for row, x in watched.stamped:
        used[row].update(seen(x, images))
    for row, target in enumerate(targets):
        labels = images.y[sorted(used[row])].unique().tolist()
        assert labels == [c for c in EVERY if c != target]


def test_success_is_measured_on_images_that_were_not_searched_on(watched: Watched) -> None:
    truth = planted()
    images = numbered(truth.images)
    invert(truth.model, images, (1,), "patch", one_heat(12), seed=0)
    searched = {i for _, x in watched.stamped[:12] for i in seen(x, images)}
    measured = {i for _, x in watched.stamped[12:] for i in seen(x, images)}
    assert len(searched) > 40 and len(measured) == 50  # 40 % of 24 images is 10, of five other classes
    assert not searched & measured


def test_image_passes_are_the_images_that_were_stamped(watched: Watched) -> None:
    truth = planted()
    config = one_heat(7, measured=33)
    found = invert(truth.model, truth.images, (0, 1, 2, 3), "patch", config, seed=0)
    assert found.image_passes == sum(len(x) for _, x in watched.stamped) == 4 * (7 * 8 + 33)


def test_a_class_does_not_depend_on_the_others_in_the_call() -> None:
    truth = planted(targets=(2, 4))
    config = one_heat(70)
    together = invert(truth.model, truth.images, EVERY, "patch", config, seed=0)
    for target in (1, 2, 5):
        alone = invert(truth.model, truth.images, (target,), "patch", config, seed=0)
        assert alone.size[0] == pytest.approx(together.size[target].item(), rel=0.01)
        assert torch.allclose(alone.trigger.mask()[0], together.trigger.mask()[target], atol=0.01)
        assert alone.success[0] == together.success[target]


def test_a_class_that_is_done_does_not_go_on_because_others_do() -> None:
    truth = planted()
    net = copy.deepcopy(truth.model.net)
    net.get_parameter("fc.bias").data[5] = -1000  # no trigger reaches class 5, so it is tried to the end
    model = Classifier(net, truth.model.classes, truth.model.image_shape)
    config = one_heat(200, 4, patience=3)
    alone = invert(model, truth.images, (2,), "patch", config, seed=1)
    assert alone.image_passes < 150 * 4
    together = invert(model, truth.images, (2, 5), "patch", config, seed=1)
    assert together.image_passes == 2 * (200 * 4 + 50)
    assert torch.allclose(alone.trigger.mask()[0], together.trigger.mask()[0], atol=0.01)
    endless = dataclasses.replace(config, patience=1000)
    better = invert(model, truth.images, (2,), "patch", endless, seed=1)
    assert better.size[0] < 0.95 * alone.size[0]  # otherwise this test could not fail


def test_the_patience_of_a_class_bounds_its_work() -> None:
    truth = planted()
    config = one_heat(400, 4, patience=5)
    found = invert(truth.model, truth.images, (2,), "patch", config, seed=0)
    steps = (found.image_passes - 50) / 4
    assert 20 < steps < 300


def test_a_class_without_a_trigger_is_tried_to_the_end_whatever_the_patience() -> None:
    truth = planted()
    config = one_heat(30, 4, patience=2, success=1.01)
    found = invert(truth.model, truth.images, (2,), "patch", config, seed=0)
    assert found.image_passes == 30 * 4 + 50


def keeping(chunks: list[Chunk]) -> Map:
    """The serial map; every chunk it is given goes to the list."""

    def run(work: Work, todo: Iterable[Chunk], tick: Tick, /) -> Iterator[tuple[Chunk, Tensors]]:
        for chunk in todo:
            chunks.append(chunk)
            yield from serial(work, [chunk], tick)

    return run


def test_chunks_hold_as_many_classes_as_fit_a_batch_in_their_order() -> None:
    truth = planted()
    chunks: list[Chunk] = []
    config = one_heat(2, batch=16)
    found = invert(truth.model, truth.images, (5, 0, 3), "patch", config, seed=0, map=keeping(chunks))
    assert chunks == [Chunk("patch", 0, (Goal(5), Goal(0))), Chunk("patch", 0, (Goal(3),))]
    assert found.targets == (5, 0, 3)


def test_the_same_seed_gives_the_same_and_another_seed_other_images(watched: Watched) -> None:
    truth = planted()
    images = numbered(truth.images)

    def run(seed: int) -> tuple[Tensor, set[int]]:
        watched.stamped.clear()
        torch.manual_seed(torch.randint(1000, ()).item())  # the global generator must not matter
        found = invert(truth.model, images, (0, 2), "patch", one_heat(10), seed=seed)
        return found.trigger.mask(), set(seen(watched.stamped[-1][1], images))

    (first, measured), (again, measured_again), (other, measured_else) = run(3), run(3), run(4)
    assert torch.equal(first, again) and measured == measured_again
    assert not torch.allclose(first, other, atol=0.01) and measured != measured_else


def test_nothing_that_is_given_is_changed() -> None:
    truth = planted()
    weights = copy.deepcopy(truth.model.net.state_dict())
    x, y = truth.images.x.clone(), truth.images.y.clone()
    invert(truth.model, truth.images, (0, 2), "patch", SHORT, seed=0)
    assert torch.equal(truth.images.x, x) and torch.equal(truth.images.y, y)
    assert not truth.images.x.requires_grad
    for name, value in truth.model.net.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(p.grad is None and not p.requires_grad for p in truth.model.net.parameters())


@pytest.mark.parametrize("patience", [1000, 1])
def test_progress_only_rises_and_ends_at_the_total(patience: int) -> None:
    truth = planted(classes=10)
    stages = (Stage(100, 4), Stage(50, 4, 0.5))
    config = InvertConfig(stages=stages, batch=16, patience=patience, precision="fp32")
    reports: list[tuple[int, int]] = []
    invert(
        truth.model,
        truth.images,
        tuple(range(10)),
        "patch",
        config,
        seed=0,
        progress=lambda done, total: reports.append((done, total)),
    )
    done, totals = zip(*reports, strict=True)
    assert set(totals) == {done[-1]} == {10 * 100 + 5 * 50}
    assert list(done) == sorted(done)
    # each step of four and of two chunks is told; fewer if classes stop
    assert len(done) == 500 if patience == 1000 else len(done) < 490


def test_a_search_in_bf16_is_measured_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Classifier] = []
    answered = module.measure.logits

    def watching(model: Classifier, x: Tensor, trigger: Trigger) -> Tensor:
        measured.append(model)
        return answered(model, x, trigger)

    monkeypatch.setattr(module.measure, "logits", watching)
    truth = planted()
    config = dataclasses.replace(one_heat(3), precision="bf16")
    found = invert(truth.model, truth.images, (2, 3), "patch", config, seed=0)
    assert found.precision == "bf16" and found.trigger.mask().dtype == torch.float32
    assert len(measured) == 2 and all(model is truth.model for model in measured)


class Broken(nn.Module):
    """Fine on the images themselves; NaN, or a gradient that is NaN, once they are stamped."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        if self.how == "gradient":
            return out + (x[:, :1, 0, 0] * 0).sqrt()
        return out * torch.where((x[:, :1, 0, 0] - 0.5).abs() < 0.05, torch.nan, 1.0)


@pytest.mark.parametrize("how", ["output", "gradient"])
def test_a_search_that_meets_nan_is_an_error_and_not_a_large_trigger(how: str) -> None:
    truth = planted()
    model = Classifier(Broken(truth.model.net, how), truth.model.classes, truth.model.image_shape)
    assert bool(model(truth.images.x).isfinite().all()) or how == "output"
    with pytest.raises(ModelError, match="NaN"):
        invert(model, truth.images, EVERY, "patch", SHORT, seed=0)


def test_too_few_images_of_other_classes_to_measure_on_are_an_error() -> None:
    truth = planted()
    few = truth.images.where(torch.tensor([0, *range(48, 60)]))  # one of class 0, twelve of class 2
    with pytest.raises(DataError, match="no images"):
        invert(truth.model, few, (2,), "patch", SHORT, seed=0)


# Races


def race(classes: int = 10, config: InvertConfig = RACE, **options: Any) -> Inversion:
    truth = planted(classes=classes, targets=(2, classes - 3), size=10, per_class=10)
    return invert(truth.model, truth.images, tuple(range(classes)), "patch", config, seed=0, **options)


def test_the_classes_with_the_smallest_triggers_go_on() -> None:
    found = race(12)
    assert found.heats.bincount().tolist() == [0, 12 - 6, 6 - LEAST, LEAST]  # a tenth of 12 would be one
    assert found.early is not None
    smallest = found.early.argsort()[:6].tolist()
    assert {i for i, heats in enumerate(found.heats) if heats > 1} == set(smallest)
    assert {2, 9} <= {i for i, heats in enumerate(found.heats) if heats == 3}


def test_a_class_keeps_its_best_trigger_when_it_drops_out_and_while_it_goes_on() -> None:
    found = race()
    assert found.early is not None
    held = found.early.isfinite()
    out = (found.heats == 1) & held
    assert out.any() and torch.allclose(found.size[out], found.early[out], rtol=1e-4)
    on = (found.heats > 1) & held
    assert bool((found.size[on] <= found.early[on] * 1.0001).all())
    assert bool((found.size[on] < 0.99 * found.early[on]).any())


def test_with_few_classes_all_take_part_in_every_heat() -> None:
    assert race(LEAST).heats.tolist() == [3] * LEAST
    assert race(LEAST + 1).heats.bincount().tolist() == [0, 1, 0, LEAST]


def test_in_a_race_too_every_image_pass_is_counted(watched: Watched) -> None:
    found = race(10, dataclasses.replace(RACE, measured=20))
    steps = 10 * 30 * 8 + 5 * 10 * 8 + LEAST * 5 * 16
    assert found.image_passes == sum(len(x) for _, x in watched.stamped) == steps + LEAST * 20 + 6 * 5


def test_those_who_dropped_out_are_measured_on_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counting(model: Classifier, x: Tensor, trigger: Trigger) -> Tensor:
        counts.append(len(x))
        return torch.zeros(len(x), 10)

    monkeypatch.setattr(module.measure, "logits", counting)
    found = race(10, dataclasses.replace(RACE, measured=24))
    assert counts == [24 if heats == 3 else 6 for heats in found.heats.tolist()]


def test_a_class_that_no_trigger_reaches_drops_out_first() -> None:
    truth = planted(classes=8)
    net = copy.deepcopy(truth.model.net)
    net.get_parameter("fc.bias").data[[0, 2]] = -1000
    model = Classifier(net, truth.model.classes, truth.model.image_shape)
    config = dataclasses.replace(RACE, stages=(Stage(40, 8), Stage(2, 8, 0.75)))
    found = invert(model, truth.images, tuple(range(8)), "patch", config, seed=0)
    assert found.heats.tolist() == [1, 2, 1, 2, 2, 2, 2, 2] and found.success[[0, 2]].tolist() == [0, 0]
    assert found.early is not None
    assert found.early.isinf().tolist() == [True, False, True, *[False] * 5]


def test_of_classes_without_a_trigger_those_that_succeed_more_often_come_first() -> None:
    inf = float("inf")
    rows = {
        "best": torch.tensor([30.0, inf, 5.0, inf, inf]),
        "success": torch.tensor([0.0, 0.1, 1.0, 0.9, 0.5]),
    }
    assert module._order(rows).tolist() == [2, 0, 3, 4, 1]


def test_how_classes_are_put_into_chunks_does_not_matter_in_a_race() -> None:
    chunks: list[Chunk] = []
    together, apart = race(), race(config=dataclasses.replace(RACE, batch=16), map=keeping(chunks))
    assert [len(c.goals) for c in chunks] == [2] * 4 + [1] * 2 + [2, 1, 1, 1] + [1] * 4
    assert [c.stage for c in chunks] == [0] * 6 + [1] * 4 + [2] * 4
    assert torch.equal(together.heats, apart.heats)
    assert torch.allclose(together.size, apart.size, rtol=0.01)
    assert torch.equal(together.success, apart.success)
    assert together.image_passes == apart.image_passes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_searched_and_its_size_pressed(family: str) -> None:
    truth = planted(targets=(), per_class=12)
    found = invert(truth.model, truth.images, (0, 3), family, one_heat(60), seed=0)
    assert found.family == family and type(found.trigger) is type(
        FAMILIES[family].load(found.trigger.tensors())
    )
    assert bool(found.size.isfinite().all()) and torch.equal(found.size, found.trigger.size())
    if family in ("patch", "additive"):  # the others cannot turn one of these templates into another
        longer = invert(truth.model, truth.images, (0, 3), family, one_heat(120, patience=200), seed=0)
        assert found.success.amin() > 0.8 and longer.size.sum() < found.size.sum()


def test_each_goal_starts_from_noise_of_its_own_whatever_the_others() -> None:
    def first(*goals: Goal) -> Tensor:
        return start("patch", goals, (1, 4, 4), STANDARD, seed=0)["now:mask"]

    apart = first(Goal(1, 0), Goal(1, 5), Goal(1), Goal(0), Goal(None))
    assert len({tuple(mask.flatten().tolist()) for mask in apart}) == 5
    assert torch.equal(first(Goal(1, 5))[0], apart[1])


# What a step does


def test_adam_goes_as_that_of_torch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(3, 4, generator=generator)
    theirs = mine.clone().requires_grad_()
    moments = torch.zeros(2, 3, 4)
    reference = torch.optim.Adam([theirs], lr=0.3, betas=BETAS)
    for step in range(1, 20):
        gradient = torch.randn(3, 4, generator=generator)
        theirs.grad = gradient.clone()
        reference.step()
        adam(mine, gradient, *moments, step=step, rate=0.3)
        assert torch.allclose(mine, theirs.detach(), atol=1e-5)


def test_losses_are_those_of_their_definitions() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0]])
    own = torch.tensor([0, 1])
    chances = logits.softmax(1)
    aimed = losses(logits, own, torch.tensor([2, 0]))
    assert torch.allclose(aimed, -chances[[0, 1], [2, 0]].log())
    kept = losses(logits, own, torch.tensor([KEPT, 2]))
    assert torch.allclose(kept, torch.stack([KEEPING * (1 - chances[0, 0]), -chances[1, 2].log()]))
    mean = chances.mean(0)
    apart = losses(logits, own, torch.tensor([APART, APART]))
    assert torch.allclose(apart, -(1 - chances[[0, 1], own]).log() + (mean * mean.log()).sum())
    sure = losses(torch.tensor([[90.0, 0.0]]), torch.tensor([0]), torch.tensor([APART]))
    assert sure.item() == pytest.approx(90)  # where 1 - p is rounded to 0


def test_images_of_other_classes_can_be_kept_while_those_of_the_source_are_moved() -> None:
    """Any bright corner leads to class 2; only that of class 4 must, and the others keep theirs."""
    truth = planted()
    pairs, plain = (Goal(2, 4),), one_heat(80)
    kept = dataclasses.replace(plain, kept=0.5)
    sizes = []
    for config in (plain, kept):
        done = module.race(truth.model, truth.images, pairs, "patch", config, seed=0)
        moved = measure.success(truth.model, truth.images.where(truth.images.y == 4), done.trigger, 2)
        others = truth.images.where((truth.images.y != 4) & (truth.images.y != 2))
        sizes.append((moved, measure.success(truth.model, others, done.trigger, 2)))
    (moved, along), (moved_alone, left) = sizes
    assert moved > 0.8 and moved_alone > 0.8 and left < 0.5 * along
