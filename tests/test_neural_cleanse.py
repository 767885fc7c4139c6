"""The published search: its controller by hand, and that it finds what is planted."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from planted import planted

from detrigger.detect import PLAIN, detect
from detrigger.errors import ModelError
from detrigger.images import split
from detrigger.measure import success
from detrigger.model import Classifier
from detrigger.neural_cleanse import NeuralCleanseConfig, _Weight, neural_cleanse

SMALL = NeuralCleanseConfig(steps=45, images_per_step=64, learning_rate=0.3, weight=0.01)


def weights(successes: str, config: NeuralCleanseConfig) -> tuple[list[float], _Weight]:
    """The weight after each step of a row of successes (+) and failures (-)."""
    weight, values = _Weight(), []
    for sign in successes:
        weight.update(1.0 if sign == "+" else 0.5, config)
        values.append(weight.value)
    return values, weight


def test_the_defaults_are_those_of_the_published_example() -> None:
    config = NeuralCleanseConfig()
    assert (config.steps, config.images_per_step, config.batch, config.learning_rate) == (1000, 992, 32, 0.1)
    assert (config.weight, config.weight_factor, config.patience, config.success) == (1e-3, 2, 5, 0.99)
    assert config.stop_patience == 25


def test_the_weight_is_nothing_until_success_has_lasted() -> None:
    config = NeuralCleanseConfig(patience=3)
    values, _ = weights("++-++-------++", config)
    assert values == [0] * 14
    values, _ = weights("++-+++", config)
    assert values == [0, 0, 0, 0, 0, 1e-3]


def test_the_weight_goes_up_and_down_after_runs_as_published() -> None:
    config = NeuralCleanseConfig(patience=3, weight=1.0, weight_factor=4.0)
    # the success that sets the weight is the first of the next three (visualizer.py of the authors)
    values, weight = weights("++++++++-+------++", config)
    assert values == [0, 0, 1, 1, 4, 4, 4, 16, 16, 16, 16, 16, 2, 2, 2, 0.25, 0.25, 0.25]
    assert weight.went_up and weight.went_down and weight.settled


def test_only_a_weight_that_went_both_up_and_down_is_settled() -> None:
    config = NeuralCleanseConfig(patience=2)
    assert not weights("----++", config)[1].settled  # going down from nothing does not count
    assert not weights("++++++", config)[1].settled
    assert not weights("++----", config)[1].settled
    assert weights("+++--", config)[1].settled


def test_it_finds_the_planted_target_and_the_plain_rule_says_so() -> None:
    truth = planted(targets=(2,), per_class=16)
    found = neural_cleanse(truth.model, truth.images, tuple(range(6)), SMALL, seed=0)
    assert found.size.argmin() == 2 and found.success[2] > 0.9
    mask, corner = found.trigger[2].mask(), truth.triggers[0].masks
    assert (mask * corner).sum() > 0.6 * mask.sum()
    finding = detect({found.family: found}, truth.model.classes, truth.model.image_shape, PLAIN)
    assert finding.verdict == "backdoored" and [s.index for s in finding.suspects] == [2]


def test_each_class_is_searched_alone_and_alike_in_any_company() -> None:
    truth = planted()
    config = dataclasses.replace(SMALL, steps=4)
    reports: list[tuple[int, int]] = []
    found = neural_cleanse(
        truth.model,
        truth.images,
        (4, 2),
        config,
        seed=5,
        progress=lambda done, total: reports.append((done, total)),
    )
    alone = neural_cleanse(truth.model, truth.images, (2,), config, seed=5)
    assert torch.equal(found.trigger[1].mask(), alone.trigger.mask())
    assert reports == [(1, 2), (2, 2)] and found.targets == (4, 2)
    other = neural_cleanse(truth.model, truth.images, (2,), config, seed=6)
    assert not torch.allclose(other.trigger.mask(), alone.trigger.mask(), atol=0.01)


def test_passes_and_success_are_counted_as_in_our_own_search() -> None:
    truth = planted()
    config = dataclasses.replace(SMALL, steps=3, images_per_step=40, measured=20)
    found = neural_cleanse(truth.model, truth.images, (0, 2), config, seed=0)
    assert found.image_passes == 2 * (3 * 40 + 20)
    held_out = split(truth.images, (0.6, 0.4), seed=0)[1]
    full = neural_cleanse(truth.model, truth.images, (2,), dataclasses.replace(config, measured=999), seed=0)
    assert full.success[0] == pytest.approx(success(truth.model, held_out, found.trigger[1], 2))


def test_a_settled_search_stops_before_its_steps_are_used_up() -> None:
    truth = planted(per_class=8)
    config = NeuralCleanseConfig(
        steps=400, images_per_step=24, patience=2, stop_patience=4, learning_rate=0.5, weight_factor=8.0
    )
    found = neural_cleanse(truth.model, truth.images, (2,), config, seed=0)
    assert found.image_passes < 200 * 24


def test_nothing_that_is_given_is_changed() -> None:
    truth = planted()
    before, x = copy.deepcopy(truth.model.net.state_dict()), truth.images.x.clone()
    neural_cleanse(truth.model, truth.images, (1,), dataclasses.replace(SMALL, steps=2), seed=0)
    assert torch.equal(truth.images.x, x)
    assert all(torch.equal(value, before[n]) for n, value in truth.model.net.state_dict().items())


def test_a_network_that_returns_nan_is_an_error() -> None:
    truth = planted()
    net = copy.deepcopy(truth.model.net)
    net.get_parameter("fc.bias").data.fill_(torch.nan)
    model = Classifier(net, truth.model.classes, truth.model.image_shape)
    with pytest.raises(ModelError, match="NaN"):
        neural_cleanse(model, truth.images, (1,), dataclasses.replace(SMALL, steps=2), seed=0)
