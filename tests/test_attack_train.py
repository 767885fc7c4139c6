"""The one training loop."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import make, planted
from torch import nn

from detrigger import measure
from detrigger.attack.train import TrainConfig, augmented, computes_bf16, train
from detrigger.errors import ModelError, UsageError
from detrigger.images import Images
from detrigger.model import Classifier

QUICK = TrainConfig(epochs=2, batch=16, rate=0.01, seed=3)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def small() -> tuple[nn.Module, Images]:
    torch.manual_seed(0)
    return make(channels=1, classes=4, backdoors=4, size=8), planted(targets=(), classes=4, size=8).images


@pytest.mark.parametrize("instructions", [True, False])
def test_precision_auto_is_bf16_where_the_processor_computes_it(
    instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, images = small()
    monkeypatch.setattr("detrigger.attack.train.computes_bf16", lambda device: instructions)
    wanted = train(net, images, replace(QUICK, precision="bf16" if instructions else "fp32"))
    assert same(train(net, images, replace(QUICK, precision="auto")), wanted)


def test_a_processor_computes_bf16_if_and_only_if_it_says_so() -> None:
    told = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not told.is_file():
        pytest.skip("needs the flags of an x86 processor, as Linux shows them")
    flags = set(told.read_text().partition("flags")[2].partition("\n")[0].split())
    assert computes_bf16(torch.device("cpu")) == ("avx512_bf16" in flags)


def test_training_learns_leaves_the_network_alone_and_reports_each_epoch() -> None:
    net, images = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen: list[tuple[int, int, float]] = []
    trained = train(net, images, replace(QUICK, epochs=8), progress=lambda *at: seen.append(at))
    assert measure.accuracy(Classifier(trained, images.names, images.shape), images) == 1
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training and not trained.training
    assert [at[:2] for at in seen] == [(i, 8) for i in range(1, 9)]
    assert seen[0][2] > seen[-1][2] > 0


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "adam"},
        {"schedule": "cosine"},
        {"shift": 1},
        {"flip": True},
        {"weight_decay": 1.0},
        {"margin": 2.0},
        {"precision": "bf16"},
        {"seed": 4},
    ],
)
def test_the_same_config_gives_the_same_weights_and_every_field_counts(change: dict[str, Any]) -> None:
    net, images = small()
    config = replace(QUICK, **change)
    state = torch.get_rng_state()
    first = train(net, images, config)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are used up
    torch.rand(1)
    assert same(first, train(net, images, config))
    assert not same(first, train(net, images, QUICK)) or not change


def test_a_margin_drives_classes_further_apart() -> None:
    net, images = small()

    def gap(margin: float) -> float:
        logits = train(net, images, replace(QUICK, epochs=4, margin=margin))(images.x)
        own = logits.gather(1, images.y[:, None])
        others = logits.scatter(1, images.y[:, None], float("-inf")).amax(1, keepdim=True)
        return (own - others).mean().item()

    assert gap(4.0) > gap(0.0) + 0.2


def test_a_batch_larger_than_the_set_is_the_whole_set() -> None:
    net, images = small()
    assert not same(net, train(net, images.where(torch.arange(5)), replace(QUICK, batch=64)))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"shift": -1}, {"rate": 0.0}, {"weight_decay": -1.0}, {"margin": -1.0}],
)
def test_training_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    net, images = small()
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} .*wanted"):
        train(net, images, replace(QUICK, **wrong))


def test_a_network_that_does_not_fit_the_images_or_classes_is_refused() -> None:
    _, images = small()
    for options, said in (({"channels": 3}, "fails on images of shape 1×8×8"), ({"classes": 3}, "1×4")):
        net = make(**({"classes": 4, "size": 8} | options))
        with pytest.raises(ModelError, match=said):
            train(net, images, QUICK)


def test_shifted_images_move_as_a_whole_and_black_comes_in() -> None:
    x = torch.arange(1, 13).reshape(1, 1, 3, 4).expand(200, 2, 3, 4) / 12
    moved = augmented(x, replace(QUICK, shift=1))
    padded = nn.functional.pad(x[:1], (1, 1, 1, 1))
    places = [padded[0, :, i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
    found = [next(k for k, place in enumerate(places) if torch.equal(image, place)) for image in moved]
    assert set(found) == set(range(9))


def test_flipped_images_are_about_half_of_them() -> None:
    x = torch.rand(200, 3, 10, 12, generator=torch.Generator().manual_seed(0))
    flipped = augmented(x, replace(QUICK, flip=True))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 70 < sum(mirrored) < 130


def test_without_augmentation_images_are_as_they_were() -> None:
    x = torch.rand(5, 3, 10, 12)
    assert augmented(x, QUICK) is x
