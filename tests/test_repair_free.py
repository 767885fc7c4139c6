"""Repairs that need no trigger: fine-pruning, minimax unlearning, sharpness-aware fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import PENULTIMATE, planted
from tiny import Norm, learned, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detrigger.errors import UsageError
from detrigger.measure import accuracy, success
from detrigger.model import Classifier
from detrigger.repair import Repaired
from detrigger.repair.anp import AnpConfig, anp, learned_masks, maskable, pruned, scaled
from detrigger.repair.clp import ClpConfig, channel_bounds, clp, convolution_norm_pairs
from detrigger.repair.fine_prune import FinePruneConfig, dormancy, fine_prune
from detrigger.repair.fst import FstConfig, fst
from detrigger.repair.ibau import (
    FIXED_POINT_RATE,
    SHRINKAGE,
    IbauConfig,
    hypergradient,
    ibau,
    worst_pattern,
)
from detrigger.repair.methods import METHODS
from detrigger.repair.sam import SamConfig, ascent, sam

FREE = tuple(name for name, method in METHODS.items() if method.trigger_free)


@pytest.mark.parametrize("norm", ["batch", "none", "layer"])
@pytest.mark.parametrize("name", FREE)
def test_they_keep_the_accuracy_of_any_network_without_a_trigger(name: str, norm: Norm) -> None:
    truth = learned(norm)
    few = truth.images.where(torch.arange(len(truth.images)) % 2 == 0)  # ten of each class
    before = copy.deepcopy(truth.model.net.state_dict())
    candidates = METHODS[name].candidates(truth.model)
    assert len(candidates) == (name != "clp" or norm == "batch")
    for candidate in candidates:
        result = candidate(truth.model, few, (), (), 0)
        assert result.label.startswith(name) and accuracy(result.model, truth.images) >= 0.95
        assert all(p.success == 0 for p in result.curve) and len(result.curve) > 1
        after = result.model.net.state_dict()
        changed = any(not torch.equal(after[n], before[n]) for n in before)
        assert changed == (" 0 of" not in result.label)
        assert all(torch.equal(value, before[n]) for n, value in truth.model.net.state_dict().items())


@pytest.mark.parametrize("name", ["fine-prune", "i-bau", "anp"])
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    truth = learned()
    (candidate,) = METHODS[name].candidates(truth.model)
    few = truth.images.where(torch.arange(len(truth.images)) % 5 == 0)
    first, again, other = (candidate(truth.model, few, (), (), seed).model for seed in (1, 1, 2))
    x = truth.images.x
    assert torch.equal(first(x), again(x))
    assert name == "anp" or not torch.equal(first(x), other(x))


def left(result: Repaired) -> float:
    truth = learned()
    return success(result.model, truth.images, truth.triggers[0], 2)


def test_fine_pruning_removes_a_learned_backdoor() -> None:
    truth = learned()
    result = fine_prune(truth.model, truth.images, (), (), FinePruneConfig(), seed=0)
    assert left(result) < 0.1 and accuracy(result.model, truth.images) > 0.95


def test_a_neuron_that_only_the_trigger_wakes_is_dormant_and_stays_silent_through_tuning() -> None:
    truth = planted()
    resting = dormancy(truth.model, truth.images, PENULTIMATE)
    assert resting.argmin().item() == truth.neurons[0]
    clean = truth.model.activations(truth.images.x, PENULTIMATE).clamp_min(0).mean(0)
    assert torch.allclose(resting, clean, atol=1e-5)
    config = FinePruneConfig(epochs=1, learning_rate=1e-4)
    result = fine_prune(truth.model, truth.images, (), (), config, seed=0)
    assert result.label == "fine-prune fc:in, 1 of 7 neurons, epochs, 1 of 1"
    columns = result.model.net.get_parameter("fc.weight")
    assert bool((columns[:, truth.neurons[0]] == 0).all()) and bool((columns[:, :6] != 0).any())
    assert accuracy(result.model, truth.images) == 1
    assert success(result.model, truth.images, truth.triggers[0], 2) == 0


def test_fine_pruning_silences_nothing_that_costs_more_than_allowed() -> None:
    truth = planted()
    generous = FinePruneConfig(epochs=1, learning_rate=1e-4, accuracy_drop=0.4)
    result = fine_prune(truth.model, truth.images, (), (), generous, seed=0)
    assert result.label.startswith("fine-prune fc:in, 3 of 7")  # the backdoor's and two of six classes


def test_the_steps_of_sam_reach_the_surface_of_the_ball_uphill() -> None:
    net = nn.Linear(3, 2)
    cross_entropy(net(torch.randn(5, 3)), torch.tensor([0, 1, 1, 0, 1])).backward()
    steps = ascent(net, 0.5)
    weights = torch.cat([w.detach().flatten() for w in net.parameters()])
    slopes = torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None])
    step = torch.cat([steps[w].flatten() for w in net.parameters()])
    assert torch.allclose((step / weights.abs()).norm(), torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(step, 0.5 * weights**2 * slopes / (weights * slopes).norm(), atol=1e-6)
    assert bool((step * slopes >= 0).all())


def test_without_a_radius_sam_is_plain_fine_tuning() -> None:
    truth = learned()
    config = SamConfig(radius=0.0, epochs=1, batch=120, smoothing=0.2)
    result = sam(truth.model, truth.images, (), (), config, seed=0)
    net = copy.deepcopy(truth.model.net).train().requires_grad_(True)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    loss = cross_entropy(net(truth.images.x[order]), truth.images.y[order], label_smoothing=0.2)
    sgd = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=5e-4)
    loss.backward()
    sgd.step()
    got = result.model.net.state_dict()
    for name, value in net.named_parameters():
        assert torch.allclose(got[name].float(), value.float(), atol=1e-6), name


def test_the_pass_uphill_leaves_running_averages_alone() -> None:
    truth = learned()

    def averages(radius: float) -> Tensor:
        config = SamConfig(radius=radius, epochs=1, batch=120)
        result = sam(truth.model, truth.images, (), (), config, seed=0)
        return result.model.net.state_dict()["1.running_mean"]

    assert torch.equal(averages(0.0), averages(2.0))
    assert not torch.equal(averages(2.0), truth.model.net.state_dict()["1.running_mean"])


class Quadratic(nn.Module):
    """Small and smooth, so that derivatives can be compared exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x.flatten(1)).tanh())
        return out


@pytest.mark.parametrize("terms", [0, 1, 3])
def test_the_hypergradient_is_what_jacobians_say(terms: int) -> None:
    torch.manual_seed(0)
    model = Classifier(Quadratic(), ("a", "b"), (1, 2, 2))
    net = copy.deepcopy(model.net).requires_grad_(True)
    x = (0.3 + 0.4 * torch.rand(6, 1, 2, 2)).double()
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    pattern = (0.1 * torch.randn(1, 1, 2, 2)).double().requires_grad_()
    config = IbauConfig(terms=terms, perturbed_share=0.5)
    names = [n for n, _ in net.named_parameters()]

    def loss(d: Tensor, images: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        out = torch.func.functional_call(net, dict(zip(names, weights, strict=True)), images + d)
        return cross_entropy(out.float(), y)

    first = torch.cat([torch.ones(3), torch.zeros(3)]).double()[:, None, None, None]

    def outer(d: Tensor, *weights: Tensor) -> Tensor:
        return loss(first * d, x, weights)

    def step(d: Tensor, *weights: Tensor) -> Tensor:
        def inner(pattern: Tensor) -> Tensor:
            return SHRINKAGE * pattern.square().sum() - loss(pattern, x, weights)

        return d - FIXED_POINT_RATE * torch.func.grad(inner)(d)

    weights = tuple(w.detach().clone() for w in net.parameters())
    d = pattern.detach()
    direct = torch.func.grad(outer, tuple(range(1, 5)))(d, *weights)
    slope = torch.func.grad(outer)(d, *weights).flatten()
    jacobians = torch.func.jacrev(step, tuple(range(5)))(d, *weights)
    moving = jacobians[0].reshape(4, 4)
    v = sum((torch.linalg.matrix_power(moving.T, k) @ slope for k in range(terms + 1)), torch.zeros(4))
    got = hypergradient(model, net, x, y, pattern, config)
    for value, own, jacobian in zip(got, direct, jacobians[1:], strict=True):
        implied = torch.einsum("dw,d->w", jacobian.reshape(4, -1), v).reshape(own.shape)
        expected = own + implied * (terms > 0)
        assert torch.allclose(value, expected, atol=1e-6), (value, expected, implied)


@pytest.mark.parametrize("radius", [2.0, 5.0])
def test_the_worst_pattern_stays_in_its_ball_and_misleads_more_than_noise(radius: float) -> None:
    truth = learned()
    generator = torch.Generator().manual_seed(0)
    config = IbauConfig(radius=radius)
    pattern = worst_pattern(truth.model, truth.model.net, truth.images, config, generator).detach()
    assert pattern.norm() <= radius + 1e-4

    def missed(change: Tensor) -> float:
        given = truth.model((truth.images.x + change).clamp(0, 1)).argmax(1)
        return (given != truth.images.y).float().mean().item()

    noise = torch.randn(pattern.shape, generator=generator)
    assert missed(pattern) > missed(noise / noise.norm() * radius) + 0.05 * (radius - 1)


def test_minimax_unlearning_halves_the_loss_under_the_worst_pattern() -> None:
    truth = learned()
    config = IbauConfig(radius=5.0, learning_rate=0.001)
    result = ibau(truth.model, truth.images, (), (), config, seed=0)

    def worst(model: Classifier) -> float:
        generator = torch.Generator().manual_seed(5)
        found = worst_pattern(model, model.net, truth.images, config, generator).detach()
        return cross_entropy(model((truth.images.x + found).clamp(0, 1)), truth.images.y).item()

    assert worst(result.model) < worst(truth.model) / 2
    assert accuracy(result.model, truth.images) > 0.95


def test_rounds_that_cost_too_much_are_passed_over() -> None:
    truth = learned()
    cases: dict[str, Callable[[], Repaired]] = {
        "i-bau, rounds, 0 of 2": lambda: ibau(
            truth.model, truth.images, (), (), IbauConfig(rounds=2, learning_rate=1.0), seed=0
        ),
        "ft-sam radius 2, epochs, 0 of 2": lambda: sam(
            truth.model, truth.images, (), (), SamConfig(epochs=2, learning_rate=50.0), seed=0
        ),
    }
    for label, run in cases.items():
        result = run()
        assert result.label == label and result.model is truth.model
        assert result.curve[-1].accuracy < 0.9


def test_known_triggers_help_to_choose_the_stop() -> None:
    truth = learned()
    config = FinePruneConfig(epochs=6)
    blind = fine_prune(truth.model, truth.images, (), (), config, seed=0)
    seeing = fine_prune(truth.model, truth.images, truth.triggers, (2,), config, seed=0)
    assert [p.accuracy for p in blind.curve] == [p.accuracy for p in seeing.curve]
    assert left(seeing) == min(p.success for p in seeing.curve[1:]) and left(seeing) <= left(blind)
    assert replace(seeing.curve[0], success=0.0) == blind.curve[0]


# Channel Lipschitz pruning


def loud(channel: int) -> Classifier:
    """The learned network with one channel of its last convolution amplified, which the next layer undoes."""
    truth = learned()
    net = copy.deepcopy(truth.model.net)
    with torch.no_grad():
        net.get_parameter("6.weight")[channel] *= 30
        net.get_parameter("6.bias")[channel] *= 30
        net.get_parameter("7.weight")[channel] *= 30
    return replace(truth.model, net=net)


def test_the_bound_of_a_channel_is_its_singular_value_scaled() -> None:
    model = learned().model
    convolution, norm = model.net.get_submodule("3"), model.net.get_submodule("4")
    kernels = convolution.get_parameter("weight").numpy()
    sigma = np.array([np.linalg.svd(k.reshape(len(k), -1), compute_uv=False)[0] for k in kernels])
    scale = norm.get_parameter("weight").numpy() / np.sqrt(norm.get_buffer("running_var").numpy() + 1e-5)
    assert np.allclose(channel_bounds(model, "3", "4"), sigma * np.abs(scale), rtol=1e-4)


def test_a_channel_that_amplifies_far_more_than_others_goes_alone() -> None:
    model, truth = loud(5), learned()
    result = clp(model, truth.images, (), (), ClpConfig())
    assert result.label == "clp threshold 3, 1 of 52 channels"
    before, after = model.net.state_dict(), result.model.net.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"7.weight", "7.bias"}
    assert (after["7.weight"] == 0).nonzero()[:, 0].tolist() == [5] and after["7.bias"][5] == 0


class Disorderly(nn.Module):
    """Two convolutions and their norms, which are listed in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_b, self.conv_a = nn.BatchNorm2d(5), nn.Conv2d(1, 4, 3)
        self.norm_a, self.conv_b = nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
        self.bare, self.head = nn.Conv2d(5, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_b(self.conv_b(self.norm_a(self.conv_a(x)).relu())).relu()
        out: Tensor = self.head(self.bare(x).mean((2, 3)))
        return out


def test_norms_are_paired_with_the_convolutions_that_feed_them() -> None:
    model = Classifier(Disorderly(), ("a", "b"), (1, 9, 9))
    assert convolution_norm_pairs(model) == [("conv_a", "norm_a"), ("conv_b", "norm_b")]


def test_a_network_without_batch_norm_is_refused_in_one_line() -> None:
    truth = learned("none")
    with pytest.raises(
        UsageError, match="needs convolutions that feed a BatchNorm, and this network has none"
    ):
        clp(truth.model, truth.images, (), (), ClpConfig())


# Feature-shift tuning


def test_the_last_layer_is_pushed_away_and_its_norm_is_held() -> None:
    truth = learned()
    old = truth.model.net.get_parameter("11.weight")

    def likeness(push: float) -> float:
        config = FstConfig(push=push, epochs=4, learning_rate=0.05, accuracy_drop=1.0)
        result = fst(truth.model, truth.images, (), (), config, seed=0)
        new = result.model.net.get_parameter("11.weight")
        assert torch.allclose(new.norm(), old.norm(), rtol=1e-4)
        return float((new * old).sum() / old.norm() ** 2)

    assert likeness(1.0) < likeness(0.0) - 0.03


def test_a_last_layer_that_is_not_linear_cannot_start_anew() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(net, tuple("abcdef"), (1, 12, 12))
    assert METHODS["fst"].candidates(model) == ()
    with pytest.raises(UsageError, match="not linear"):
        fst(model, learned().images, (), (), FstConfig(), seed=0)


# Adversarial neuron pruning


@pytest.mark.parametrize("norm", ["batch", "none", "layer"])
def test_layers_scaled_are_layers_with_scaled_weights(norm: Norm) -> None:
    torch.manual_seed(0)
    net = network(norm).eval()
    model = Classifier(net, tuple("abcdef"), (1, 12, 12))
    x = torch.rand(5, 1, 12, 12)
    net = copy.deepcopy(model.net)
    factors = {
        n: (torch.rand(k), torch.rand(k)) for n in maskable(model) for k in [len(model.activations(x, n)[0])]
    }
    with scaled(net, factors):
        got = net(x)
    assert torch.equal(net(x), model(x)) and not torch.allclose(got, model(x), atol=1e-3)
    for name, (weights, biases) in factors.items():
        weight = net.get_parameter(f"{name}.weight")
        weight.mul_(weights.reshape(-1, *[1] * (weight.ndim - 1)))
        net.get_parameter(f"{name}.bias").mul_(biases)
    assert torch.allclose(got, net(x), atol=1e-5)


def test_masks_lie_between_0_and_1_and_some_fall() -> None:
    truth = learned()
    config = AnpConfig(epochs=5, learning_rate=0.2)
    masks = learned_masks(truth.model, truth.images, config, torch.Generator().manual_seed(0))
    values = torch.cat(list(masks.values()))
    assert set(masks) == {"1", "4", "7"} and len(values) == 52
    assert values.min() >= 0 and values.max() <= 1 and bool((values < 0.9).any())


def test_pruning_by_masks_zeroes_weights_and_leaves_biases() -> None:
    model = learned().model
    masks = {"4": torch.linspace(0, 1, 16)}
    after = pruned(model, masks, 0.21).net.state_dict()
    before = model.net.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"4.weight"}
    assert (after["4.weight"] == 0).nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_how_much_is_pruned_depends_on_clean_accuracy_alone() -> None:
    truth = learned()
    config = AnpConfig(epochs=5, accuracy_drop=0.1)
    blind = anp(truth.model, truth.images, (), (), config, seed=0)
    seeing = anp(truth.model, truth.images, truth.triggers, (2,), config, seed=0)
    assert torch.equal(blind.model(truth.images.x), seeing.model(truth.images.x))
    assert blind.label == seeing.label and seeing.curve[0].success == 1
    assert accuracy(blind.model, truth.images) >= 0.9
    assert all(p.accuracy >= 0.9 for p in blind.curve[:-1]) and len(blind.curve) > 2
