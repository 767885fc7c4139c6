"""Patches, BadNets, and how images are chosen, stamped and relabelled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from detrigger.attack import Planted
from detrigger.attack.badnets import BadNetsConfig, plant, poison, trigger
from detrigger.attack.poisoning import add_cover, add_poison, draws, share, stored, untouched, victims
from detrigger.errors import DataError, UsageError
from detrigger.images import Images

SHAPE = (3, 10, 12)


def noise(n: int = 200, shape: tuple[int, int, int] = SHAPE) -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=generator)
    return Images(x, torch.arange(n) % 4, ("a", "b", "c", "d"), "folder", "1234")


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
    a, b, c = (trigger(BadNetsConfig(target=0, pattern="noise", seed=s), SHAPE).patterns for s in (1, 1, 2))
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
        {"opacity": 0.0},
        {"opacity": 1.1},
    ],
)
def test_a_patch_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    said = {"colour": "wanted 1 or 3 numbers", "opacity": "opacity .* at most 1"}
    with pytest.raises(UsageError, match=said.get(next(iter(wrong)), "does not fit")):
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
    for rate in (0.0, -0.1, 1.1, float("nan"), 0.001):
        with pytest.raises(UsageError, match="poison_rate"):
            poison(noise(), BadNetsConfig(target=0, poison_rate=rate))
    with pytest.raises(DataError, match=r"160 .* wanted from 1 to the 150 that are not of class 0"):
        poison(noise(), BadNetsConfig(target=0, poison_rate=0.8))


def test_a_checkered_patch_has_its_colour_in_every_second_pixel() -> None:
    made = trigger(BadNetsConfig(target=0, height=2, width=3, margin=0, pattern="checker"), (1, 4, 4))
    assert made.patterns[0, 0, 2:, 1:].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert made.masks[0, 0, 2:, 1:].min() == 1


def test_a_patch_may_be_half_the_image_and_half_opaque() -> None:
    (planted,) = plant(BadNetsConfig(target=0, height=5, width=12, place=(5, 0), opacity=0.5), SHAPE)
    x = noise(4).x
    assert torch.allclose(planted.stamp(x)[..., 5:, :], stored((x[..., 5:, :] + 1) / 2), atol=1e-6)
    assert torch.equal(planted.stamp(x)[..., :5, :], stored(x[..., :5, :]))


# What all attacks share


def darken(x: Tensor) -> Tensor:
    return stored(x / 2)


def test_a_backdoor_counts_on_all_images_but_the_targets_or_on_its_sources_or_on_all() -> None:
    y = torch.tensor([0, 1, 2, 3, 3])
    for planted, mask, wanted in (
        (Planted(darken, 1), [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]),
        (Planted(darken, 1, (3, 1)), [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]),
        (Planted(darken, None), [1, 1, 1, 1, 1], [1, 2, 3, 0, 0]),
    ):
        found = victims(planted, y, 4)
        assert found[0].int().tolist() == mask and found[1].tolist() == wanted
    assert y.tolist() == [0, 1, 2, 3, 3]


def test_poison_and_covers_never_meet_and_covers_keep_their_labels() -> None:
    images = noise(40)
    poisoned = add_poison(untouched(images), Planted(darken, 1), 10, 0)
    poisoned = add_poison(poisoned, Planted(darken, 2), 10, 0)
    poisoned = add_cover(poisoned, darken, 10, 0)
    poisoned = add_cover(poisoned, darken, 3, 0, among=images.y == 1)
    touched = torch.cat([poisoned.positions, poisoned.covers])
    assert len(touched) == len(touched.unique()) == 33 and len(poisoned.planted) == 2
    changed = (poisoned.images.x != images.x).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == touched.sort().values.tolist()
    relabelled = (poisoned.images.y != images.y).nonzero()[:, 0]
    assert set(relabelled.tolist()) <= set(poisoned.positions.tolist())
    assert bool(torch.isin(poisoned.images.y[poisoned.positions], torch.tensor([1, 2])).all())
    with pytest.raises(DataError, match="8 images to stamp, wanted from 1 to the 7 left for covers"):
        add_cover(poisoned, darken, 8, 0)
    assert add_cover(poisoned, darken, 0, 0) is poisoned


def test_clean_label_poison_is_of_the_target_class() -> None:
    images = noise(40)
    poisoned = add_poison(untouched(images), Planted(darken, 1), 10, 0, clean_label=True)
    assert torch.equal(poisoned.images.y, images.y) and bool((images.y[poisoned.positions] == 1).all())
    with pytest.raises(DataError, match="the 10 of class 1"):
        add_poison(untouched(images), Planted(darken, 1), 11, 0, clean_label=True)


def test_sources_are_classes() -> None:
    with pytest.raises(UsageError, match="source class 7; wanted 0 to 3"):
        add_poison(untouched(noise(40)), Planted(darken, 1, (2, 7)), 1, 0)


def test_a_share_is_rounded_and_may_be_nothing_only_where_that_makes_sense() -> None:
    assert share(0.124, noise(40)) == 5
    assert share(0.0, noise(40), least=0) == 0
    for rate, least in ((0.0, 1), (0.01, 1), (-0.1, 0), (1.1, 0)):
        with pytest.raises(UsageError, match="cover_rate"):
            share(rate, noise(40), name="cover_rate", least=least)


def test_draws_belong_to_the_image_not_to_its_place() -> None:
    x = noise(40).x
    found = draws(x, 3, 5)
    assert found.shape == (40, 3) and bool(((found >= 0) & (found < 1)).all())
    assert torch.equal(draws(x.flip(0), 3, 5), found.flip(0))
    assert torch.equal(draws(x[7:8], 3, 5), found[7:8])
    assert len(found.unique()) == 120 and abs(found.mean() - 0.5) < 0.1
    assert not torch.equal(draws(x, 3, 6), found)
    assert draws(x[:0], 3, 5).shape == (0, 3)
