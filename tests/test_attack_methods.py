"""Every attack poisons as many images as it says, with the labels it says, and leaves the rest alone."""

from __future__ import annotations

import copy

import pytest
import torch
from attacks import (
    CLASSES,
    CLEAN_LABEL,
    CONFIGS,
    PARTIAL,
    SHAPE,
    equal,
    helper,
    in_8_bits,
    noise,
    poisoned,
)

from detrigger.attack.methods import ATTACKS, victims


def test_all_attacks_are_here() -> None:
    assert list(CONFIGS) == [name for name in CONFIGS if name in ATTACKS] and len(CONFIGS) == len(ATTACKS)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_stated_number_of_images_is_stamped_with_the_stated_labels(name: str) -> None:
    images = noise()
    made = poisoned(name, images)
    _, count, covers = CONFIGS[name]
    assert (len(made.positions), len(made.covers)) == (count, covers)
    touched = torch.cat([made.positions, made.covers]).sort().values
    assert len(touched.unique()) == count + covers
    changed = (made.images.x != images.x).flatten(1).any(1)
    assert torch.equal(changed.nonzero()[:, 0], touched)
    assert in_8_bits(made.images.x[touched])
    assert made.images.names == images.names and len(made.images) == 200
    kept = torch.ones(200, dtype=torch.bool)
    kept[made.positions] = False
    assert torch.equal(made.images.y[kept], images.y[kept])
    wanted = torch.stack([victims(one, images.y, CLASSES)[1] for one in made.planted])[:, made.positions]
    assert bool((made.images.y[made.positions] == wanted).any(0).all())
    if name in CLEAN_LABEL:
        assert torch.equal(made.images.y, images.y)
    else:
        assert bool((images.y[made.positions] != made.images.y[made.positions]).all())


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in (*PARTIAL, *CLEAN_LABEL)])
def test_training_images_get_the_stamp_that_is_measured_later(name: str) -> None:
    images = noise()
    made = poisoned(name, images)
    before, after = images.x[made.positions], made.images.x[made.positions]
    hit = torch.stack([(one.stamp(before) == after).flatten(1).all(1) for one in made.planted])
    assert bool(hit.any(0).all()) and bool(hit.any(1).all())


@pytest.mark.parametrize("name", CONFIGS)
def test_an_attack_leaves_its_arguments_alone_and_its_seed_decides(name: str) -> None:
    images, clean = noise(), helper().train()
    x, y, state = images.x.clone(), images.y.clone(), copy.deepcopy(clean.state_dict())
    random = torch.get_rng_state()
    first, again, other = (poisoned(name, images, clean, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(images.x, x) and torch.equal(images.y, y)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), clean.state_dict().values(), strict=True))
    assert clean.training and torch.equal(torch.get_rng_state(), random)
    assert torch.equal(first.images.x, again.images.x) and torch.equal(first.images.y, again.images.y)
    assert first.positions.tolist() == again.positions.tolist() != other.positions.tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stamp_is_deterministic_whatever_the_batch_and_is_the_trigger_if_there_is_one(name: str) -> None:
    x = noise().x
    before = x.clone()
    for one in poisoned(name, noise()).planted:
        found = one.stamp(x)
        assert torch.equal(x, before) and in_8_bits(found) and not equal(found, x)
        assert torch.equal(one.stamp(x.flip(0)).flip(0), found)
        assert torch.equal(one.stamp(x[3:4]), found[3:4])
        if one.trigger is not None:
            assert len(one.trigger) == 1
            assert torch.allclose(one.trigger(x)[0], found, atol=0.5001 / 255)
        else:
            assert name in ("random-location", "bpp", "physical")


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_planted_on_images_of_a_shape_is_what_poisoning_plants(name: str) -> None:
    config, made = ATTACKS[name].config(**CONFIGS[name][0]), poisoned(name, noise())
    make_them = ATTACKS[name].plant
    if make_them is None:
        assert name == "trojan-nn"
        return
    x = noise(5).x
    for a, b in zip(make_them(config, SHAPE), made.planted, strict=True):
        assert torch.equal(a.stamp(x), b.stamp(x))
        assert (a.target, a.sources) == (b.target, b.sources)
