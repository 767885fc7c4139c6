"""A network that learned from clean images alone, beside one with a backdoor."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from planted import Planted, planted
from torch import nn

from detrigger.control import LARGE, SMALLEST, WIDEST, ControlConfig, control, network
from detrigger.images import Images
from detrigger.measure import accuracy, predictions, success
from detrigger.model import Classifier, Preprocessing

CONFIG = ControlConfig(steps=120, batch=48)


def shifted() -> Planted:
    """A planted network of log-probabilities that wants its images normalised."""
    truth = planted()
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,))
    return dataclasses.replace(truth, model=dataclasses.replace(truth.model, preprocessing=preprocessing))


def test_a_control_learns_the_images_and_not_the_backdoor() -> None:
    truth = planted()
    before = copy.deepcopy(truth.model.net.state_dict())
    twin = control(truth.model, truth.images, CONFIG, seed=0)
    assert accuracy(twin, truth.images) > 0.95
    others = truth.images.where(truth.images.y != truth.targets[0])
    assert success(truth.model, others, truth.triggers[0], truth.targets[0]) == 1
    assert success(twin, others, truth.triggers[0], truth.targets[0]) < 0.2
    assert all(torch.equal(value, before[name]) for name, value in truth.model.net.state_dict().items())


def test_nothing_of_the_network_is_in_its_control_but_its_answers() -> None:
    truth = shifted()
    twin = control(truth.model, truth.images, ControlConfig(steps=1), seed=0)
    assert twin.preprocessing == Preprocessing() and not twin.probabilities
    assert (twin.classes, twin.image_shape) == (truth.model.classes, truth.model.image_shape)
    assert {type(m) for m in twin.net.modules()} <= {
        nn.Sequential,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Linear,
    }


class Constant(nn.Module):
    """Always the same class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0, 0.0]).expand(len(x), -1)


def test_a_control_learns_the_answers_of_the_network_as_well_as_the_labels() -> None:
    truth = planted()
    model = dataclasses.replace(truth.model, net=Constant())
    twin = control(model, truth.images, dataclasses.replace(CONFIG, temperature=8.0), seed=0)
    assert (predictions(twin, truth.images.x) == 1).float().mean() > 0.9


def test_a_control_follows_from_its_seed() -> None:
    truth = planted()
    one, same, other = (
        control(truth.model, truth.images, ControlConfig(steps=3), seed=s)(truth.images.x) for s in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_random_numbers_of_others_are_left_alone() -> None:
    truth = planted()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    control(truth.model, truth.images, ControlConfig(steps=1), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_control_can_be_trained_on_fewer_images_than_a_batch() -> None:
    truth = planted()
    few = Images(truth.images.x[::24], truth.images.y[::24], truth.images.names)
    seen: list[tuple[int, int]] = []
    twin = control(truth.model, few, ControlConfig(steps=4), seed=0, progress=lambda *told: seen.append(told))
    assert isinstance(twin, Classifier) and seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("side", "halved"), [(8, 0), (28, 2), (32, 2), (112, 4), (128, 3), (224, 4), (800, 4)]
)
def test_images_of_any_size_are_halved_until_they_are_small(side: int, halved: int) -> None:
    net = network((3, side, side), 7, torch.Generator())
    strided = [m for m in net[1:].modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    first = net[0][0].stride[0]
    assert (
        len(strided) == halved
        and -(-side // (first * 2**halved)) <= SMALLEST
        and first == max(1, side // LARGE)
    )
    assert max(m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)) <= WIDEST
    assert net.eval()(torch.rand(2, 3, side, side)).shape == (2, 7)


def test_passes_are_those_of_both_networks() -> None:
    assert ControlConfig(steps=10, batch=4).passes == 80


def test_more_classes_are_learned_for_longer() -> None:
    steps = [ControlConfig.of(k, 784).steps for k in (2, 10, 40, 1000)]
    assert steps == [250, 250, 500, 2500]


def test_of_large_images_a_step_has_fewer() -> None:
    batches = [ControlConfig.of(10, side * side).batch for side in (28, 224, 320, 800)]
    assert batches == [64, 64, 31, 16]
