"""Poisoning, training, recipes."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import make, planted
from torch import nn

from detrigger import measure
from detrigger.attack import ATTACKS, AttackSpec, read_spec, run
from detrigger.attack.badnets import BadNetsConfig, poison, trigger
from detrigger.attack.train import TrainConfig, augmented, train
from detrigger.errors import DataError, InputError, ModelError, UsageError
from detrigger.images import Images
from detrigger.model import Classifier

SHAPE = (3, 10, 12)
QUICK = TrainConfig(epochs=2, batch=16, rate=0.01, seed=3)


def noise(n: int = 200, shape: tuple[int, int, int] = SHAPE) -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=generator)
    return Images(x, torch.arange(n) % 4, ("a", "b", "c", "d"), "folder", "1234")


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# BadNets


@pytest.mark.parametrize(
    ("place", "y", "x"),
    [
        ("lower right", 6, 7),
        ("lower left", 6, 1),
        ("upper right", 1, 7),
        ("upper left", 1, 1),
        ((0, 8), 0, 8),
    ],
)
def test_the_patch_is_where_the_config_says(place: Any, y: int, x: int) -> None:
    made = trigger(BadNetsConfig(target=0, height=3, width=4, place=place), SHAPE)
    mask = torch.zeros(1, 1, 10, 12)
    mask[..., y : y + 3, x : x + 4] = 1
    assert torch.equal(made.masks, mask)
    assert torch.equal(made.patterns, mask.expand(1, 3, 10, 12))


def test_a_colour_is_per_channel_or_one_for_all_and_rounded_to_8_bits() -> None:
    made = trigger(BadNetsConfig(target=0, colour=(0.1, 0.5, 1.0), margin=0), SHAPE)
    assert (made.patterns[0, :, 9, 11] * 255).tolist() == pytest.approx([26, 128, 255])
    made = trigger(BadNetsConfig(target=0, colour=(0.3,), margin=0), SHAPE)
    assert (made.patterns[0, :, 9, 11] * 255).tolist() == pytest.approx([76, 76, 76], abs=1)


def test_a_random_pattern_comes_from_the_seed_and_is_in_8_bit_steps() -> None:
    a, b, c = (trigger(BadNetsConfig(target=0, colour="random", seed=s), SHAPE).patterns for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    inside = a[..., 5:9, 7:11] * 255
    assert torch.allclose(inside, inside.round(), atol=1e-4) and len(inside.unique()) > 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 10},
        {"width": 0},
        {"place": (-1, 0)},
        {"place": (0, 9)},
        {"margin": -1},
        {"colour": (0.1, 0.2)},
        {"colour": (1.5,)},
        {"colour": ()},
    ],
)
def test_a_patch_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="wanted 1 or 3 numbers" if "colour" in wrong else "does not fit"):
        trigger(BadNetsConfig(target=0, **wrong), SHAPE)


def test_poisoned_images_are_stamped_and_relabelled_and_all_others_untouched() -> None:
    images = noise()
    before = images.x.clone(), images.y.clone()
    config = BadNetsConfig(target=2, poison_rate=0.1, seed=5, colour=(0.7,))
    poisoned = poison(images, config)
    chosen = torch.zeros(200, dtype=torch.bool)
    chosen[poisoned.positions] = True
    assert chosen.sum() == len(poisoned.positions) == 20  # a share of all images, not of the other classes
    assert bool((images.y[chosen] != 2).all()) and bool((poisoned.images.y[chosen] == 2).all())
    stamped = trigger(config, SHAPE)(images.x[chosen])[0]
    assert torch.allclose(poisoned.images.x[chosen], stamped, atol=0.5 / 255 + 1e-6)
    steps = poisoned.images.x[chosen] * 255
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert torch.equal(poisoned.images.x[~chosen], images.x[~chosen])
    assert torch.equal(poisoned.images.y[~chosen], images.y[~chosen])
    assert torch.equal(images.x, before[0]) and torch.equal(images.y, before[1])
    assert poisoned.images.sha256 == ""  # no longer those pixels


def test_which_images_are_poisoned_comes_from_the_seed() -> None:
    a, b, c = (poison(noise(), BadNetsConfig(target=2, seed=s)).positions.tolist() for s in (1, 1, 2))
    assert a == b != c


def test_a_target_or_rate_that_cannot_be_is_refused() -> None:
    for target in (-1, 4):
        with pytest.raises(UsageError, match="wanted 0 to 3"):
            poison(noise(), BadNetsConfig(target=target))
    for rate in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="poison_rate"):
            poison(noise(), BadNetsConfig(target=0, poison_rate=rate))
    for rate in (0.8, 0.001):
        with pytest.raises(DataError, match="wanted from 1 to the 150 "):
            poison(noise(), BadNetsConfig(target=0, poison_rate=rate))


# Training


def small() -> tuple[nn.Module, Images]:
    torch.manual_seed(0)
    return make(channels=1, classes=4, backdoors=4, size=8), planted(targets=(), classes=4, size=8).images


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


def test_a_batch_larger_than_the_set_is_the_whole_set() -> None:
    net, images = small()
    assert not same(net, train(net, images.where(torch.arange(5)), replace(QUICK, batch=64)))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"shift": -1}, {"rate": 0.0}, {"weight_decay": -1.0}],
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
    x = noise().x
    flipped = augmented(x, replace(QUICK, flip=True))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 70 < sum(mirrored) < 130


def test_without_augmentation_images_are_as_they_were() -> None:
    x = noise().x
    assert augmented(x, QUICK) is x


# Recipes


RECIPE = """
seed = 11
[network]
arch = "timm:resnet18"
arguments = { width = 8, act = "relu" }
[train]
epochs = 3
[attack]
name = "badnets"
target = 1
place = [2, 3]
colour = [1, 0.5, 0]
"""


def test_a_recipe_gives_every_config_and_its_seed_to_both() -> None:
    wanted = AttackSpec(
        arch="timm:resnet18",
        arguments={"width": 8, "act": "relu"},
        train=TrainConfig(epochs=3, seed=11),
        attack="badnets",
        config=BadNetsConfig(target=1, place=(2, 3), colour=(1.0, 0.5, 0.0), seed=11),
        seed=11,
    )
    assert read_spec(RECIPE) == wanted
    own = RECIPE.replace("epochs = 3", "epochs = 3\nseed = 5") + "seed = 6\n"
    assert (read_spec(own).train.seed, read_spec(own).config.seed, read_spec(own).seed) == (5, 6, 11)


def test_a_recipe_without_an_attack_is_a_clean_model() -> None:
    spec = read_spec(RECIPE.split("[attack]")[0])
    assert spec.attack is None and spec.config is None
    assert read_spec('[network]\narch = "a.py:b"') == AttackSpec(arch="a.py:b")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 11", "sed = 11", "the recipe has no field 'sed'; choose from network, train"),
        ('arch = "timm:resnet18"', "", r"\[network\].*`arch`"),
        ("width = 8", "width = 8 }\nlayers = { a = 1", r"\[network\] has no field 'layers'"),
        ("epochs = 3", "epoch = 3", r"\[train\] has no field 'epoch'; choose from epochs, batch"),
        ("epochs = 3", "epochs = 2.5", r"\[train\].*int.*epochs"),
        ("epochs = 3", 'optimizer = "sgd"', r"\[train\].*'sgd'.*optimizer"),
        ('"badnets"', '"nobody"', "name is 'nobody'; wanted one of badnets"),
        ('name = "badnets"', "", "name is None"),
        ("target = 1", "", r"\[attack\].*`target`"),
        ("place = [2, 3]", "place = 'middle'", r"\[attack\].*place"),
        ("colour = [1, 0.5, 0]", "color = [1]", r"\[attack\] has no field 'color'"),
    ],
)
def test_a_wrong_field_of_a_recipe_is_named_in_one_line(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_spec(RECIPE.replace(old, new))
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_spec("seed = = 1")
    with pytest.raises(InputError, match=r"missing\.toml"):
        read_spec(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"seed = \xff")
    with pytest.raises(InputError, match=r"bytes\.toml"):
        read_spec(tmp_path / "bytes.toml")


def test_every_attack_can_be_told_from_a_recipe() -> None:
    for name, attack in ATTACKS.items():
        fields = {f.name for f in dataclasses.fields(attack.config)}
        assert {"target", "seed"} <= fields and "name" not in fields
        text = f'[network]\narch = "a.py:b"\n[attack]\nname = "{name}"\ntarget = 3\n'
        assert isinstance(read_spec(text).config, attack.config)
        assert attack.paper and attack.summary


# All of it


def test_an_attack_leaves_the_backdoor_that_its_trigger_opens_and_a_clean_run_does_not() -> None:
    torch.manual_seed(0)
    net = make(channels=1, classes=4, backdoors=12, size=10)
    images = planted(targets=(), classes=4, size=10, per_class=60).images
    config = BadNetsConfig(target=1, height=3, width=3, margin=0, poison_rate=0.1)
    spec = AttackSpec("", train=replace(QUICK, epochs=12), attack="badnets", config=config)
    bad, clean = run(net, images, spec), run(net, images, replace(spec, attack=None, config=None))
    assert (bad.target, bad.poisoned) == (1, 24)
    assert (clean.target, clean.poisoned, clean.trigger) == (None, 0, None)
    assert bad.trigger is not None
    for attacked, opens in ((bad, True), (clean, False)):
        model = Classifier(attacked.net, images.names, images.shape)
        assert measure.accuracy(model, images) == 1
        assert (measure.success(model, images, bad.trigger, 1) > 0.95) is opens
