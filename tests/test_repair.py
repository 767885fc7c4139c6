"""Pruning, unlearning, refitting and the guard, on networks whose backdoor is one known neuron."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import PENULTIMATE, Planted, planted
from scipy.stats import beta
from torch import Tensor, nn

from detrigger.errors import UsageError
from detrigger.heats import InvertConfig
from detrigger.images import Images, split
from detrigger.measure import accuracy, predictions, recalls, success
from detrigger.model import Classifier, layers, linear_head, recorded
from detrigger.repair import Repaired
from detrigger.repair import distil as distillation
from detrigger.repair.distil import DistilConfig, distil, divergence, moved, stamped_rows
from detrigger.repair.guard import GuardConfig, Judgement, Known, judge, parts
from detrigger.repair.methods import AUTO, METHODS
from detrigger.repair.prune import PruneConfig, gaps, prune
from detrigger.repair.refit import RefitConfig, refit
from detrigger.repair.silencing import silenced
from detrigger.repair.unlearn import UnlearnConfig, _material, unlearn
from detrigger.trigger import stamped
from detrigger.trigger.additive import AdditiveTrigger
from detrigger.trigger.patch import PatchTrigger

WITH_TRIGGERS = [n for n, m in METHODS.items() if not m.trigger_free and n != "unlearn"]
LONG = UnlearnConfig(epochs=10, clean_share=1.0, stamped_share=0.25)


def weights(model: Classifier) -> dict[str, Tensor]:
    return copy.deepcopy(model.net.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# Pruning


@pytest.mark.parametrize("targets", [(2,), (2, 4), (0, 1, 5)])
def test_pruning_silences_the_planted_neurons_alone_and_stops_there(targets: tuple[int, ...]) -> None:
    truth = planted(targets=targets)
    before = weights(truth.model)
    pruned = prune(truth.model, truth.images, truth.triggers, targets, PruneConfig())
    k = len(targets)
    assert pruned.label == f"prune {PENULTIMATE}, {k} of {6 + k} neurons"
    after = weights(pruned.model)
    assert set((after["fc.weight"] == 0).all(0).nonzero()[:, 0].tolist()) == set(truth.neurons)
    after["fc.weight"][:, list(truth.neurons)] = before["fc.weight"][:, list(truth.neurons)]
    assert same(after, before) and same(weights(truth.model), before)
    assert [p.share for p in pruned.curve] == pytest.approx([i / (6 + k) for i in range(k + 1)])
    assert [p.success for p in pruned.curve] == [1] * k + [0]
    assert all(p.accuracy == 1 for p in pruned.curve)
    for trigger, target in zip(truth.triggers, targets, strict=True):
        assert success(pruned.model, truth.images, trigger, target) == 0


def natural(truth: Planted, target: int) -> PatchTrigger:
    """The whole image of a class: a trigger that nothing planted makes work."""
    image = truth.images.x[truth.images.y == target].mean(0, keepdim=True)
    return PatchTrigger(torch.ones(1, 1, 12, 12), image)


def test_pruning_stops_when_too_much_accuracy_is_lost() -> None:
    truth = planted()
    pruned = prune(truth.model, truth.images, (natural(truth, 3),), (3,), PruneConfig(accuracy_drop=0.3))
    lost = [1 - p.accuracy for p in pruned.curve]
    assert all(x <= 0.3 for x in lost[:-1]) and (lost[-1] > 0.3 or pruned.curve[-1].success < 0.02)


def test_pruning_never_takes_more_than_its_share() -> None:
    truth = planted()
    config = PruneConfig(success=0.0, share=0.5, accuracy_drop=1.0)
    pruned = prune(truth.model, truth.images, truth.triggers, (2,), config)
    assert len(pruned.curve) == 1 + 3 and pruned.label.endswith("3 of 7 neurons")


def test_many_neurons_go_several_at_once() -> None:
    truth = planted()
    config = PruneConfig(success=0.0, share=1.0, accuracy_drop=1.0, stops=3)
    pruned = prune(truth.model, truth.images, truth.triggers, (2,), config)
    assert [p.share for p in pruned.curve] == pytest.approx([0, 3 / 7, 6 / 7])


GREEDY = PruneConfig(layer="all", accuracy_drop=0.02, rollback=True, share=1.0, stops=100)


def test_of_all_layers_together_the_planted_neuron_goes_first() -> None:
    truth = planted()
    result = prune(truth.model, truth.images, truth.triggers, (2,), GREEDY)
    assert result.label == "prune all layers, 1 of 16 neurons"
    assert [(p.accuracy, p.success) for p in result.curve] == [(1, 1), (1, 0)]


def test_neurons_that_accuracy_needs_are_put_back_exactly() -> None:
    truth = leaning()  # the target class is told by the backdoor's neuron alone
    result = prune(truth.model, truth.images, truth.triggers, (2,), GREEDY)
    assert result.label == "prune all layers, 3 of 16 neurons"
    assert [p.accuracy for p in result.curve] == [1] * 4 and accuracy(result.model, truth.images) == 1
    before, after = weights(truth.model), weights(result.model)
    silent = 0
    for name, was in before.items():
        rows = (after[name] != was).flatten(1).any(1) if was.ndim > 1 else after[name] != was
        assert bool((after[name][rows] == 0).all())
        silent += int(rows.sum()) * (name in ("norm.bias", "conv2.weight"))
    assert silent <= 3 and torch.equal(after["fc.weight"], before["fc.weight"])


def test_a_trigger_that_does_not_work_prunes_nothing() -> None:
    truth = planted(targets=())
    mark = planted().triggers[0]
    pruned = prune(truth.model, truth.images, (mark,), (2,), PruneConfig())
    assert pruned.label.startswith(f"prune {PENULTIMATE}, 0 of") and len(pruned.curve) == 1


@pytest.mark.parametrize("layer", ["conv2", "conv1", "norm", PENULTIMATE, "fc"])
def test_gaps_are_mean_activations_stamped_minus_clean(layer: str) -> None:
    truth = planted(targets=(2, 4))
    net = truth.model.net
    position = [name for name, _ in net.named_children()].index(layer.removesuffix(":in"))
    front = net[: position + (not layer.endswith(":in"))]  # type: ignore[index]

    def mean(x: Tensor) -> Tensor:
        with torch.no_grad():
            out = front(x)
        return (out.mean((2, 3)) if out.ndim == 4 else out).mean(0)

    expected = []
    for trigger, target in zip(truth.triggers, truth.targets, strict=True):
        x = truth.images.x[truth.images.y != target]
        expected.append(mean((1 - trigger.masks) * x + trigger.masks * trigger.patterns) - mean(x))
    got = gaps(truth.model, truth.images, truth.triggers, truth.targets, layer)
    assert torch.allclose(got, torch.maximum(*expected), atol=1e-4)


@pytest.mark.parametrize("layer", ["norm", "conv1", "conv2", "fc"])
def test_silenced_neurons_give_nothing_and_the_others_what_they_gave(layer: str) -> None:
    truth = planted(channels=2)
    model = silenced(truth.model, layer, torch.tensor([1, 3]))
    x = truth.images.x
    with recorded(model.net, layer) as now, recorded(truth.model.net, layer) as then:
        model(x), truth.model(x)
    kept = [i for i in range(now[0].shape[1]) if i not in (1, 3)]
    assert bool((now[0][:, [1, 3]] == 0).all()) and bool((then[0][:, [1, 3]] != 0).any())
    assert torch.equal(now[0][:, kept], then[0][:, kept])


@pytest.mark.parametrize("layer", ["fc:in", "conv2:in"])
def test_silenced_inputs_of_a_layer_no_longer_count(layer: str) -> None:
    truth = planted(channels=2)
    model = silenced(truth.model, layer, torch.tensor([0, 2]))
    module = truth.model.net.get_submodule(layer.removesuffix(":in"))

    def without(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        x = inputs[0].clone()
        x[:, [0, 2]] = 0
        return x

    handle = module.register_forward_pre_hook(without)
    expected = truth.model(truth.images.x)
    handle.remove()
    assert torch.allclose(model(truth.images.x), expected, atol=1e-5)
    assert not torch.allclose(model(truth.images.x), truth.model(truth.images.x), atol=0.1)


def test_a_norm_without_weights_is_no_layer_to_prune_and_its_convolution_is() -> None:
    truth = planted(norm=False)
    front, *rest = truth.model.net.children()
    norm = nn.BatchNorm2d(2, affine=False)
    norm.running_mean, norm.running_var = torch.zeros(2), torch.ones(2)
    model = Classifier(nn.Sequential(front, norm, *rest), truth.model.classes, truth.model.image_shape)
    assert layers(model) == ("0", "3", "7:in")
    assert layers(planted().model) == ("norm", "conv2", PENULTIMATE)
    for layer in layers(model):
        config = PruneConfig(layer=layer)
        assert prune(model, truth.images, truth.triggers, (2,), config).curve[0].success == 1


@pytest.mark.parametrize("layer", ["relu1", "norm:in", "pool", "nowhere"])
def test_a_layer_that_cannot_be_pruned_is_a_usage_error(layer: str) -> None:
    truth = planted()
    with pytest.raises(UsageError, match="layer"):
        prune(truth.model, truth.images, truth.triggers, (2,), PruneConfig(layer=layer))


# Unlearning and refitting


@pytest.mark.parametrize("targets", [(2,), (2, 4)])
def test_unlearning_makes_the_triggers_fail_and_keeps_the_accuracy(targets: tuple[int, ...]) -> None:
    truth = planted(targets=targets)
    result = unlearn(truth.model, truth.images, truth.triggers, targets, LONG, seed=0)
    assert result.label == "unlearn 10 epochs, 100% clean + 25% stamped"
    assert [p.share for p in result.curve] == pytest.approx([i / 10 for i in range(11)])
    assert result.curve[0].success == result.curve[0].accuracy == 1
    assert result.curve[-1].success == 0 and result.curve[-1].accuracy == 1
    for trigger, target in zip(truth.triggers, targets, strict=True):
        assert success(result.model, truth.images, trigger, target) == 0
    assert accuracy(result.model, truth.images) == 1


def test_unlearning_goes_on_from_a_repair_with_the_original_as_the_teacher() -> None:
    """Without a step worth the name the repair stays; with steps, what it forgot comes back."""
    truth = planted(norm=False)
    forgetful = copy.deepcopy(truth.model)
    with torch.no_grad():
        forgetful.net.get_parameter("fc.bias")[1] -= 100.0  # class 1 is never said
    start = Repaired(forgetful, "refit fc, 1 of 7 neurons silenced", ())
    still = DistilConfig(epochs=1, steps=0, learning_rate=1e-12)
    result = distil(truth.model, truth.images, truth.triggers, (2,), still, seed=0, start=start)
    assert result.label == "refit-distilled fc, 1 of 7 neurons silenced, 1 epochs, rate 1e-12"
    assert not (predictions(result.model, truth.images.x) == 1).any()
    assert result.curve[0].success == 1  # the original's
    taught = replace(still, epochs=40, learning_rate=0.1)
    result = distil(truth.model, truth.images, truth.triggers, (2,), taught, seed=0, start=start)
    assert recalls(predictions(result.model, truth.images.x), truth.images.y, 6)[1] > 0.5


def test_images_are_stamped_up_to_so_many_times_over() -> None:
    truth = planted()
    faint = PatchTrigger(truth.triggers[0].masks * 0.5, truth.triggers[0].patterns)
    x, y = truth.images.x[:1], truth.images.y[:1]
    ways = [stamped(faint, x, times) for times in (1, 2, 3)]
    seen = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows, _ = stamped_rows(x, y, (faint,), (2,), DistilConfig(), generator)
        seen.add([torch.equal(rows, way) for way in ways].index(True))
    assert seen == {0, 1, 2}


def test_few_images_are_seen_more_often_for_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted(per_class=24)  # 144 images: five steps an epoch
    made: list[int] = []
    rows = distillation.stamped_rows
    monkeypatch.setattr(distillation, "stamped_rows", lambda *given: (made.append(1), rows(*given))[1])
    for steps, epochs in ((0, 1), (11, 3), (15, 3)):
        made.clear()
        config = DistilConfig(epochs=1, steps=steps)
        result = distil(truth.model, truth.images, truth.triggers, (2,), config, seed=0)
        assert result.label == f"unlearn-distilled {epochs} epochs, rate 0.01"
        assert len(made) == 5 * epochs


@pytest.mark.parametrize("few", [60, 61])
def test_by_few_images_distilling_leaves_the_averages_of_batchnorm_as_they_are(few: int) -> None:
    truth = planted(per_class=10)  # 60 images
    config = DistilConfig(epochs=2, steps=0, few=few)
    result = distil(truth.model, truth.images, truth.triggers, (2,), config, seed=0)
    before, after = (dict(model.net.named_buffers()) for model in (truth.model, result.model))
    kept = all(torch.equal(after[name], value) for name, value in before.items())
    assert before and kept == (few == 61)


@pytest.mark.parametrize(("wrong", "per_class", "few"), [(0.3, 11, True), (0.3, 10, False), (0.1, 11, False)])
def test_of_a_network_that_errs_more_images_are_few(wrong: float, per_class: int, few: bool) -> None:
    truth = planted(per_class=10)
    x, y = truth.images.x, predictions(truth.model, truth.images.x)
    y[: round(wrong * len(y))] = (y[: round(wrong * len(y))] + 1) % 6
    images = Images(x, y, truth.images.names)
    config = DistilConfig(epochs=1, steps=0, few=0, few_per_class=per_class)
    result = distil(truth.model, images, truth.triggers, (2,), config, seed=0)
    before, after = (dict(model.net.named_buffers()) for model in (truth.model, result.model))
    assert all(torch.equal(after[name], value) for name, value in before.items()) == few


def test_the_teacher_holds_a_network_harder_by_few_images() -> None:
    truth = planted(per_class=10, norm=False)
    config = DistilConfig(epochs=1, steps=0)
    few, firmly, as_ever = (
        weights(distil(truth.model, truth.images, truth.triggers, (2,), c, seed=0).model)
        for c in (config, replace(config, few=0, distillation=6.0), replace(config, few=0))
    )
    assert same(few, firmly) and not same(few, as_ever)


def test_distilling_repeats_itself_with_the_same_seed_alone() -> None:
    truth = planted()
    config = DistilConfig(epochs=1, steps=0)
    first, again, other = (
        weights(distil(truth.model, truth.images, truth.triggers, (2,), config, seed=s).model)
        for s in (1, 1, 2)
    )
    assert same(first, again) and not same(first, other)


def test_unlearning_changes_a_copy_alone_its_norms_too() -> None:
    truth = planted()
    before, x = weights(truth.model), truth.images.x.clone()
    result = unlearn(truth.model, truth.images, truth.triggers, (2,), UnlearnConfig(), seed=0)
    assert result.label.startswith("unlearn 1 epoch,")
    assert same(weights(truth.model), before) and torch.equal(truth.images.x, x)
    assert not any(p.requires_grad or p.grad is not None for p in truth.model.net.parameters())
    after = weights(result.model)
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "fc.weight"):
        assert not torch.equal(after[name], before[name])
    assert not result.model.net.training and not any(p.requires_grad for p in result.model.net.parameters())


def test_unlearning_repeats_itself_with_the_same_seed_alone() -> None:
    truth = planted()
    first, again, other = (
        weights(unlearn(truth.model, truth.images, truth.triggers, (2,), UnlearnConfig(), seed=s).model)
        for s in (1, 1, 2)
    )
    assert same(first, again) and not same(first, other)


def test_unlearning_trains_on_the_shares_asked_for_with_right_labels() -> None:
    truth = planted(targets=(2, 4))
    config = UnlearnConfig(clean_share=0.5, stamped_share=0.25)
    generator = torch.Generator().manual_seed(0)
    x, y = _material(truth.images, truth.triggers, truth.targets, config, generator)
    assert len(x) == len(y) == 72 + 2 * 18
    known = {
        image.numpy().tobytes(): label for image, label in zip(truth.images.x, truth.images.y, strict=True)
    }
    clean = [image.numpy().tobytes() for image in x[:72]]
    assert len(set(clean)) == 72 and [known[c] for c in clean] == y[:72].tolist()
    for trigger, target, part in zip(truth.triggers, truth.targets, (x[72:90], x[90:]), strict=True):
        stamped = {
            i.numpy().tobytes(): int(t)
            for i, t in zip(trigger(truth.images.x)[0], truth.images.y, strict=True)
        }
        labels = [stamped[image.numpy().tobytes()] for image in part]
        assert target not in labels
    assert y[72:90].tolist() != [2] * 18 and 2 not in y[72:90] and 4 not in y[90:]


def test_unlearning_with_a_teacher_removes_two_backdoors_at_once() -> None:
    truth = planted(targets=(2, 4))
    config = DistilConfig(epochs=4, steps=0, learning_rate=0.01)
    result = distil(truth.model, truth.images, truth.triggers, (2, 4), config, seed=0)
    assert result.label == "unlearn-distilled 4 epochs, rate 0.01"
    assert [p.success for p in result.curve] == [1, 0]
    for trigger, target in zip(truth.triggers, (2, 4), strict=True):
        assert success(result.model, truth.images, trigger, target) == 0
    assert accuracy(result.model, truth.images) == 1


def test_images_are_moved_together_by_a_few_pixels_and_keep_their_edges() -> None:
    x = torch.arange(2 * 36.0).reshape(2, 1, 6, 6) / 72
    seen = set()
    for seed in range(60):
        y = moved(x, 1, torch.Generator().manual_seed(seed))
        ways = [(d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)]
        rows = torch.arange(6)
        same_as = [
            (d, r)
            for d, r in ways
            if torch.equal(y, x[:, :, (rows + d).clamp(0, 5)][:, :, :, (rows + r).clamp(0, 5)])
        ]
        seen.update(same_as)
        assert len(same_as) == 1
    assert len(seen) == 9
    assert torch.equal(moved(x, 0, torch.Generator()), x)


def test_the_teacher_holds_the_answers_on_clean_images() -> None:
    truth = planted()

    def change(weight: float) -> float:
        config = DistilConfig(epochs=3, steps=0, distillation=weight, learning_rate=0.002)
        result = distil(truth.model, truth.images, truth.triggers, (2,), config, seed=0)
        x = truth.images.x
        return (result.model(x).softmax(1) - truth.model(x).softmax(1)).abs().mean().item()

    assert change(5.0) < change(0.0)


def test_the_divergence_is_that_of_the_softened_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 4, generator=generator) for _ in range(2))
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True) for z in (teacher.numpy(), student.numpy()))
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert divergence(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-4)
    assert divergence(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_stamped_rows_bear_right_labels_and_none_is_of_the_target() -> None:
    truth = planted(targets=(2, 4))
    y = truth.images.y
    generator = torch.Generator().manual_seed(0)
    rows, labels = stamped_rows(
        truth.images.x, y, truth.triggers, (2, 4), DistilConfig(0.25, times=1), generator
    )
    assert len(rows) == len(labels) == 36 and 2 not in labels[:18] and 4 not in labels[18:]
    for i, part in enumerate((slice(18), slice(18, 36))):
        stamped = truth.triggers[i](truth.images.x)[0].flatten(1)
        source = torch.cdist(rows[part].flatten(1), stamped).argmin(1)
        assert torch.equal(rows[part].flatten(1), stamped[source]) and torch.equal(labels[part], y[source])


def test_so_few_images_that_none_is_trained_on_leave_the_weights_alone() -> None:
    truth = planted(per_class=24)
    few = truth.images.where(torch.tensor([0, 30]))
    result = unlearn(truth.model, few, truth.triggers, (2,), UnlearnConfig(), seed=0)
    assert same(weights(result.model), weights(truth.model))


@pytest.mark.parametrize("targets", [(2,), (2, 4)])
def test_refitting_makes_the_triggers_fail_and_keeps_the_accuracy(targets: tuple[int, ...]) -> None:
    truth = planted(targets=targets)
    before = weights(truth.model)
    result = refit(truth.model, truth.images, truth.triggers, targets, RefitConfig())
    after = weights(result.model)
    assert result.curve[0].success == 1 and result.curve[-1].success == 0
    assert result.curve[-1].accuracy == 1
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"fc.weight", "fc.bias"} and same(weights(truth.model), before)
    silent = (after["fc.weight"] == 0).all(0).nonzero()[:, 0].tolist()
    assert len(silent) == 1 and set(silent) <= set(truth.neurons)
    assert result.label == f"refit fc, 1 of {6 + len(targets)} neurons silenced"


def test_the_refitted_layer_is_the_ridge_solution_of_numpy() -> None:
    truth = planted(targets=(2, 4))
    config = RefitConfig(silenced_share=0.3, stamped_weight=0.4, ridge=0.05)
    result = refit(truth.model, truth.images, truth.triggers, truth.targets, config)
    clean = truth.model.activations(truth.images.x, PENULTIMATE)
    rows, wanted, weights = [clean], [truth.model(truth.images.x)], [torch.ones(len(clean))]
    raised = []
    for trigger, target in zip(truth.triggers, truth.targets, strict=True):
        others = truth.images.y != target
        rows.append(truth.model.activations(trigger(truth.images.x[others])[0], PENULTIMATE))
        wanted.append(truth.model(truth.images.x[others]))
        weights.append(torch.full((int(others.sum()),), 0.4 / 2))
        raised.append(rows[-1].mean(0) - clean[others].mean(0))
    kept = np.sort(np.argsort(-torch.maximum(*raised).numpy())[2:])  # 0.3 of eight neurons
    a, z, w = (torch.cat(t).double().numpy() for t in (rows, wanted, weights))
    a = a[:, kept]
    penalty = 0.05 * len(a) * (a - np.average(a, axis=0, weights=w)).var(0, ddof=1).mean()
    constant = np.hstack([a, np.ones((len(a), 1))]) * np.sqrt(w)[:, None]
    shrinking = np.hstack([np.eye(len(kept)) * np.sqrt(penalty), np.zeros((len(kept), 1))])
    left = np.vstack([constant, shrinking])
    right = np.vstack([z * np.sqrt(w)[:, None], np.zeros((len(kept), z.shape[1]))])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    fc = result.model.net.get_submodule("fc")
    assert np.allclose(fc.get_parameter("weight")[:, kept], expected[:, :-1], atol=1e-4)
    assert np.allclose(fc.get_parameter("bias"), expected[:, -1], atol=1e-4)
    gone = [i for i in range(8) if i not in kept]
    assert len(gone) == 2 and bool((fc.get_parameter("weight")[:, gone] == 0).all())


def test_a_last_layer_without_bias_is_refitted_too() -> None:
    truth = planted()
    net = copy.deepcopy(truth.model.net)
    net.fc.bias = None  # type: ignore[union-attr]
    model = Classifier(net, truth.model.classes, truth.model.image_shape)
    result = refit(model, truth.images, truth.triggers, (2,), RefitConfig())
    assert result.curve[0].success == 1 and result.curve[-1].success == 0
    assert "fc.bias" not in result.model.net.state_dict() and result.curve[-1].accuracy == 1


def leaning() -> Planted:
    """The target class is told by its backdoor's neuron alone, though another one could tell it, too."""
    truth = planted()
    net = copy.deepcopy(truth.model.net)
    with torch.no_grad():
        net.get_parameter("conv2.weight")[6] += net.get_parameter("conv2.weight")[2]
        net.get_parameter("conv2.bias")[6] += 0.1
        net.get_parameter("fc.weight")[2, 2] = 0
    return replace(truth, model=Classifier(net, truth.model.classes, truth.model.image_shape))


def test_refitting_keeps_the_target_class_where_pruning_loses_it() -> None:
    truth = leaning()
    target = truth.images.where(truth.images.y == 2)
    assert accuracy(truth.model, truth.images) == 1
    pruned = prune(truth.model, truth.images, truth.triggers, (2,), PruneConfig())
    assert pruned.label.endswith("1 of 7 neurons") and accuracy(pruned.model, target) == 0
    refitted = refit(truth.model, truth.images, truth.triggers, (2,), RefitConfig())
    assert accuracy(refitted.model, target) == 1 and accuracy(refitted.model, truth.images) == 1
    assert success(refitted.model, truth.images, truth.triggers[0], 2) == 0


@pytest.mark.parametrize("name", WITH_TRIGGERS)
def test_triggers_of_two_families_are_repaired_at_once(name: str) -> None:
    truth = planted(targets=(2, 4))
    patch, other = truth.triggers
    added = AdditiveTrigger(other.masks * (2 * other.patterns - 1))  # stamps the same images
    for candidate in METHODS[name].candidates(truth.model):
        mixed, alike = (
            candidate(truth.model, truth.images, (patch, second), (2, 4), 0) for second in (added, other)
        )
        assert mixed.label == alike.label and mixed.curve == alike.curve
        assert same(weights(mixed.model), weights(alike.model))
    if name == "refit":
        assert mixed.curve[0].success == 1 and mixed.curve[-1].success == 0
        known = Known((patch, added), (2, 4), ("all", "all"))
        judgement = judge(truth.model, mixed.model, truth.images, known, GuardConfig())
        assert judgement.accepted and judgement.success_before == (1, 1) and judgement.success_after == (0, 0)


def conv_head() -> Classifier:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Classifier(net, tuple("abcdef"), (1, 12, 12))


def test_a_last_layer_that_is_not_linear_cannot_be_refitted() -> None:
    truth, model = planted(), conv_head()
    assert linear_head(truth.model) and not linear_head(model)
    assert METHODS["refit"].candidates(model) == ()
    with pytest.raises(UsageError, match="not linear"):
        refit(model, truth.images, truth.triggers, (2,), RefitConfig())


def test_every_method_makes_candidates_and_leaves_the_original_alone() -> None:
    truth = planted()
    before = weights(truth.model)
    for name, method in METHODS.items():
        assert method.summary and method.paper
        if name not in WITH_TRIGGERS:
            continue  # those that need no trigger have their own file of tests
        candidates = method.candidates(truth.model)
        assert len(candidates) == {"unlearn-distilled": 3, "refit-distilled": 2}.get(name, 1)
        for candidate in candidates:
            result = candidate(truth.model, truth.images, truth.triggers, (2,), 0)
            assert isinstance(result, Repaired) and result.label.startswith(name.split("-")[0])
            assert result.model is not truth.model and result.curve[-1].success < 0.02
    assert same(weights(truth.model), before)
    assert set(AUTO) <= set(WITH_TRIGGERS)


# The guard


class Table(nn.Module):
    """Predictions as written down: the first pixel says which image, the second whether it is stamped."""

    def __init__(self, clean: Tensor, stamped: Tensor) -> None:
        super().__init__()
        self.register_buffer("tables", torch.stack([clean, stamped]))

    def forward(self, x: Tensor) -> Tensor:
        number = (x[:, 0, 0, 0] * 99).round().long()
        stamped = (x[:, 0, 0, 1] > 0.5).long()
        return nn.functional.one_hot(self.tables[stamped, number], 3).float()  # type: ignore[index]


LABELS = torch.tensor([0] * 50 + [1] * 40 + [2] * 10)
X = torch.zeros(100, 1, 1, 2)
X[:, 0, 0, 0] = torch.linspace(0, 1, 100)
IMAGES = Images(X, LABELS, ("cat", "dog", "owl"))
STAMP = PatchTrigger(torch.tensor([[[[0.0, 1.0]]]]), torch.ones(1, 1, 1, 2))


def table(wrong: dict[int, int], hits: int, target: int = 0) -> Classifier:
    """`wrong` images of each label are missed; the trigger sends `hits` images to the target."""
    clean, stamped = LABELS.clone(), LABELS.clone()
    for label, count in wrong.items():
        first = int((label == LABELS).nonzero()[0])
        clean[first : first + count] = (label + 1) % 3
    others = (target != LABELS).nonzero()[:, 0]
    stamped[others[:hits]] = target
    return Classifier(Table(clean, stamped), ("cat", "dog", "owl"), (1, 1, 2))


ORIGINAL = table({}, 50)


KNOWN = Known((STAMP,), (0,), ("all",))


def judged(wrong: dict[int, int], hits: int, config: GuardConfig = GuardConfig()) -> Judgement:
    return judge(ORIGINAL, table(wrong, hits), IMAGES, KNOWN, config)


def test_a_candidate_without_a_fault_is_accepted_with_its_figures() -> None:
    result = judged({0: 1, 2: 1}, 2)
    assert result.accepted and result.images == 100
    assert result.reason == (
        "triggers work on at most 4.0% of held-out images, clean accuracy 100.0% before and 98.0% after"
    )
    assert (result.accuracy_before, result.accuracy_after) == pytest.approx((1, 0.98))
    assert result.recall_drop == pytest.approx({"cat": 1 / 50, "dog": 0, "owl": 1 / 10})
    assert result.success_before == (1.0,) and result.success_after == pytest.approx((2 / 50,))
    assert result.success_upper95 == pytest.approx((beta.ppf(0.95, 3, 48),))


@pytest.mark.parametrize(
    ("wrong", "hits", "accepted", "reason"),
    [
        ({0: 2}, 0, True, "triggers work on at most"),
        ({1: 5}, 0, False, r"clean accuracy falls from 100.0% to 95.0% \(at most 4.2% allowed\)"),
        ({0: 3}, 0, True, "triggers work on at most"),
        ({0: 6}, 0, False, r"recall of the target class 'cat' falls by 12.0% \(at most 9.9% allowed\)"),
        ({2: 1}, 0, True, "triggers work on at most"),  # one image is always forgiven
        ({2: 2}, 0, True, "triggers work on at most"),
        ({2: 4}, 0, False, r"recall of class 'owl' falls by 40.0% \(at most 38.2% allowed\)"),
        ({}, 2, True, "triggers work on at most 4.0%"),
        (
            {},
            3,
            False,
            r"a synthesised trigger still works on 6.0% of held-out images \(at most 5% allowed\)",
        ),
        ({1: 5}, 50, False, "still works on 100.0% .* and clean accuracy falls"),
    ],
)
def test_the_guard_refuses_exactly_beyond_its_limits(
    wrong: dict[int, int], hits: int, accepted: bool, reason: str
) -> None:
    result = judged(wrong, hits)
    assert result.accepted == accepted
    assert re.search(reason, result.reason)


def test_accuracy_may_fall_by_a_standard_error_more_and_no_further() -> None:
    allowed = 0.02 + 3**0.5 / 100  # three answers of a hundred changed
    assert judged({0: 1, 1: 2}, 0).accepted and allowed >= 0.03
    assert not judged({0: 2, 1: 2, 2: 1}, 0).accepted and 0.05 > 0.02 + 5**0.5 / 100


def test_one_image_of_a_class_is_forgiven_however_few_there_are() -> None:
    strict = GuardConfig(recall_drop=0.01)
    assert judged({2: 1}, 0, strict).accepted  # one of ten owls
    assert judged({2: 3}, 0, strict).reason.startswith("recall of class 'owl' falls by 30.0%")


def test_the_more_classes_there_are_the_more_one_of_them_may_fall_by_chance() -> None:
    config = GuardConfig(accuracy_drop=1.0)
    candidate = table({1: 7}, 0)  # 17.5 % of the dogs; one standard error is 6.6 %
    two_classes_beside_the_target = KNOWN
    one = Known((STAMP, STAMP), (0, 2), ("all", "all"))
    assert judge(ORIGINAL, candidate, IMAGES, two_classes_beside_the_target, config).accepted
    assert "falls by 17.5% (at most 16.6% allowed)" in judge(ORIGINAL, candidate, IMAGES, one, config).reason


def test_a_better_candidate_is_not_refused() -> None:
    result = judge(table({0: 5}, 50), table({}, 0), IMAGES, KNOWN, GuardConfig())
    assert result.accepted and result.recall_drop["cat"] == pytest.approx(-0.1)


def test_every_trigger_must_fail() -> None:
    candidate = table({}, 5, target=1)  # five of the 60 that are not dogs
    both = Known((STAMP, STAMP), (0, 1), ("all", "all"))
    result = judge(ORIGINAL, candidate, IMAGES, both, GuardConfig())
    assert not result.accepted and result.success_before == pytest.approx((1.0, 0.0))
    assert result.success_after == pytest.approx((0, 5 / 60))
    expected = (beta.ppf(0.95, 1, 50), beta.ppf(0.95, 6, 55))
    assert result.success_upper95 == pytest.approx(expected)


def test_classes_without_held_out_images_are_left_out() -> None:
    images = IMAGES.where(LABELS != 2)
    result = judge(ORIGINAL, table({}, 0), images, KNOWN, GuardConfig())
    assert result.accepted and set(result.recall_drop) == {"cat", "dog"}


def test_success_that_cannot_be_measured_is_refused() -> None:
    images = IMAGES.where(LABELS == 0)
    result = judge(ORIGINAL, table({}, 0), images, KNOWN, GuardConfig())
    assert math.isnan(result.success_after[0]) and not result.accepted


@pytest.mark.parametrize("name", ["accuracy_drop", "recall_drop", "target_recall_drop", "success"])
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_guard_out_of_range_is_a_usage_error(name: str, share: float) -> None:
    with pytest.raises(UsageError, match=f"the guard's {name.replace('_', '-')} is .*, wanted 0 to 1"):
        GuardConfig(**{name: share})


def test_a_strict_guard_forgives_one_image_and_no_more() -> None:
    strict = GuardConfig(accuracy_drop=0.0, recall_drop=0.0, target_recall_drop=0.0, success=0.0)
    assert judged({1: 1}, 1, strict).accepted
    assert not judged({1: 2}, 0, strict).accepted and not judged({}, 2, strict).accepted


def test_success_counts_among_images_of_the_sources() -> None:
    candidate = table({}, 5)  # the first five dogs of 40, no owl
    for sources, share in {(1,): 5 / 40, (2,): 0.0, (1, 2): 5 / 50}.items():
        known = Known((STAMP,), (0,), (sources,))
        assert judge(ORIGINAL, candidate, IMAGES, known, GuardConfig()).success_after == pytest.approx(
            (share,)
        )


class Shades(nn.Module):
    """Class 1 for images whose mean is above 0.8, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) > 0.8
        return torch.stack([~bright, bright], 1).float()


def test_triggers_are_also_stamped_over_and_over_and_right_labels_counted() -> None:
    model = Classifier(Shades(), ("dark", "bright"), (1, 2, 2))
    images = Images(torch.full((4, 1, 2, 2), 0.3), torch.zeros(4, dtype=torch.long), model.classes)
    veil = PatchTrigger(torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2))  # to 0.65, then beyond 0.8
    result = judge(model, model, images, Known((veil,), (1,), ("all",)), GuardConfig())
    assert (
        result.success_after == (0.0,) and result.stronger_after == (1.0,) and result.robust_after == (1.0,)
    )


def test_without_triggers_accuracy_and_recall_are_judged_alone() -> None:
    fine, bad = (judge(ORIGINAL, table(w, 50), IMAGES, Known(), GuardConfig()) for w in ({}, {1: 5}))
    assert fine.accepted and fine.reason == "clean accuracy 100.0% before and 100.0% after"
    assert not bad.accepted and fine.success_after == fine.success_upper95 == ()


def test_triggers_that_may_be_natural_are_measured_but_refuse_nothing() -> None:
    result = judge(ORIGINAL, table({}, 50), IMAGES, replace(KNOWN, must_fail=False), GuardConfig())
    assert result.accepted and result.success_after == (1.0,)


def test_where_nothing_was_found_no_loss_beyond_the_limits_is_forgiven_as_chance() -> None:
    unsure = replace(KNOWN, must_fail=False)
    for wrong in ({0: 1, 1: 2}, {2: 2}):  # 3 % of all, or 20 % of the owls: forgiven beside a backdoor
        assert judge(ORIGINAL, table(wrong, 0), IMAGES, KNOWN, GuardConfig()).accepted
        assert not judge(ORIGINAL, table(wrong, 0), IMAGES, unsure, GuardConfig()).accepted
    assert judge(ORIGINAL, table({0: 1, 1: 1}, 0), IMAGES, unsure, GuardConfig()).accepted


def test_what_images_are_given_without_the_trigger_does_not_count_against_it() -> None:
    confused = table({2: 10}, 0)  # every owl is called a cat, as it is
    judged = judge(confused, table({2: 10}, 12), IMAGES, KNOWN, GuardConfig())
    assert judged.success_after == pytest.approx((12 / 50,)) and judged.accepted  # 10 of 50, and 5 % of 50
    assert not judge(confused, table({2: 10}, 13), IMAGES, KNOWN, GuardConfig()).accepted


def test_bounds_widen_with_every_candidate_that_had_a_look() -> None:
    looked = [judge(ORIGINAL, table({0: 1}, 2), IMAGES, KNOWN, GuardConfig(), looks=k) for k in (0, 1, 2)]
    assert [j.looks for j in looked] == [0, 1, 2]
    for j, error in zip(looked, (0.05, 0.05 / 2, 0.05 / 8), strict=True):
        assert j.success_upper95 == pytest.approx((beta.ppf(1 - error, 3, 48),))
        assert j.loss_upper95 == pytest.approx(beta.ppf(1 - 0.75 * error, 2, 99), abs=1e-6)


def test_the_images_are_split_without_overlap_and_what_scans_search_on_certifies_nothing() -> None:
    images = Images(torch.rand(60, 1, 2, 2), torch.arange(6).repeat_interleave(10), tuple("abcdef"))
    given = parts(images, 0.4, seed=3)
    assert [len(p) for p in (given.fit, given.select, given.certify, given.scanned)] == [36, 12, 12, 48]
    seen = [{x.numpy().tobytes() for x in p.x} for p in (given.fit, given.select, given.certify)]
    assert len(set.union(*seen)) == 60 and all(len(p.y.unique()) == 6 for p in (given.select, given.certify))
    searched, _ = split(images, (1 - InvertConfig().held_out, InvertConfig().held_out), seed=3)
    for held_out in (0.2, 0.4, 0.6):
        certify = {x.numpy().tobytes() for x in parts(images, held_out, seed=3).certify.x}
        assert not certify & {x.numpy().tobytes() for x in searched.x}
