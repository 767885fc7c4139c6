"""Triggers and the families to search in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import idctn
from torch import Tensor

from detrigger.errors import DataError
from detrigger.trigger import FAMILIES
from detrigger.trigger.patch import PatchTrigger
from detrigger.trigger.waves import WaveTrigger

SHAPE = (3, 5, 6)


def random(seed: int, k: int = 2, n: int = 4) -> tuple[PatchTrigger, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks, patterns = torch.rand(k, 1, 5, 6, generator=generator), torch.rand(k, 3, 5, 6, generator=generator)
    return PatchTrigger(masks, patterns), torch.rand(n, *SHAPE, generator=generator)


@given(st.integers(0, 2**31))
def test_a_stamped_image_stays_between_image_and_pattern(seed: int) -> None:
    trigger, x = random(seed)
    stamped = trigger(x)
    patterns = trigger.patterns[:, None].expand_as(stamped)
    low, high = torch.minimum(x.expand_as(stamped), patterns), torch.maximum(x.expand_as(stamped), patterns)
    assert bool(((stamped >= low - 1e-6) & (stamped <= high + 1e-6)).all())
    assert stamped.min() >= 0 and stamped.max() <= 1


@given(st.integers(0, 2**31))
def test_an_empty_mask_changes_nothing_and_a_full_one_leaves_the_pattern(seed: int) -> None:
    trigger, x = random(seed)
    empty = PatchTrigger(torch.zeros_like(trigger.masks), trigger.patterns)
    full = PatchTrigger(torch.ones_like(trigger.masks), trigger.patterns)
    assert torch.equal(empty(x), x.expand(2, *x.shape))
    assert torch.equal(full(x), trigger.patterns[:, None].expand(2, 4, *SHAPE))


def test_half_a_mask_is_half_image_and_half_pattern() -> None:
    trigger = PatchTrigger(torch.full((1, 1, 1, 1), 0.25), torch.ones(1, 2, 1, 1))
    assert trigger(torch.full((1, 2, 1, 1), 0.2)).flatten().tolist() == pytest.approx([0.4, 0.4])


def test_a_stack_stamps_the_same_images_or_each_its_own() -> None:
    trigger, x = random(0)
    together = trigger(x)
    assert together.shape == (2, 4, *SHAPE)
    own = torch.stack([x, x.flip(0)])
    assert torch.equal(trigger(own), torch.stack([together[0], together[1].flip(0)]))


def test_one_of_a_stack_stamps_as_it_does_in_the_stack() -> None:
    trigger, x = random(1)
    assert len(trigger) == 2
    for i, alike in ((0, 0), (1, 1), (-1, 1)):
        assert len(trigger[i]) == 1
        assert torch.equal(trigger[i](x)[0], trigger(x)[alike])


def test_the_size_is_the_sum_of_the_mask() -> None:
    masks = torch.zeros(2, 1, 5, 6)
    masks[0, 0, :2, :3] = 1
    masks[1, 0, 0, 0] = 0.5
    assert PatchTrigger(masks, torch.ones(2, 3, 5, 6)).size().tolist() == [6, 0.5]


def test_the_picture_is_grey_off_the_mask() -> None:
    masks = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    trigger = PatchTrigger(masks, torch.tensor([0.9, 0.9]).reshape(1, 1, 1, 2))
    assert trigger.picture().flatten().tolist() == pytest.approx([0.5, 0.9])
    assert torch.equal(trigger.mask(), masks)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_builds_valid_triggers_from_any_parameters_and_loads_what_it_saved(name: str) -> None:
    family = FAMILIES[name]
    parameters = family.init(3, SHAPE, [torch.Generator().manual_seed(s) for s in range(3)])
    wild = {key: value * 50 for key, value in parameters.items()}
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(9))
    for trigger in (family.build(parameters, SHAPE), family.build(wild, SHAPE)):
        stamped = trigger(x)
        assert len(trigger) == 3 and stamped.shape == (3, 4, *SHAPE)
        assert stamped.min() >= 0 and stamped.max() <= 1
        assert trigger.size().shape == (3,) and bool((trigger.size() >= 0).all())
        for picture, channels in ((trigger.picture(), (1, 3)), (trigger.mask(), (1,))):
            assert len(picture) == 3 and picture.shape[1] in channels and picture.shape[2:] == (5, 6)
            assert picture.min() >= 0 and picture.max() <= 1
        again = family.load(trigger.tensors())
        assert torch.equal(again(x), stamped) and torch.equal(again.size(), trigger.size())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_starts_each_trigger_from_its_own_generator(name: str) -> None:
    def start(*seeds: int) -> dict[str, Tensor]:
        return FAMILIES[name].init(len(seeds), SHAPE, [torch.Generator().manual_seed(s) for s in seeds])

    pair, alone = start(4, 5), start(5)
    assert all(torch.equal(pair[key][1:], alone[key]) for key in alone)
    assert any(not torch.equal(pair[key][:1], alone[key]) for key in alone)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_parameter_of_every_family(name: str) -> None:
    family = FAMILIES[name]
    parameters = family.init(2, SHAPE, [torch.Generator().manual_seed(s) for s in range(2)])
    parameters = {key: value.requires_grad_() for key, value in parameters.items()}
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(9))
    weights = torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(8))
    trigger = family.build(parameters, SHAPE)
    ((trigger(x) * weights).sum() + trigger.size().sum()).backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in parameters.values())
    assert family.unit()


@pytest.mark.parametrize(
    ("masks", "patterns", "said"),
    [
        ((1, 1, 4, 4), (1, 3, 4, 5), "do not fit"),
        ((1, 1, 4, 4), (1, 3, 5, 4), "do not fit"),
        ((1, 1, 4, 4), (2, 3, 4, 4), "do not fit"),
        ((1, 3, 4, 4), (1, 3, 4, 4), "do not fit"),
        ((1, 4, 4), (3, 4, 4), "do not fit"),
    ],
)
def test_a_patch_of_shapes_that_do_not_fit_is_refused(
    masks: tuple[int, ...], patterns: tuple[int, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        FAMILIES["patch"].load({"masks": torch.zeros(masks), "patterns": torch.zeros(patterns)})


def test_a_patch_with_a_missing_tensor_or_values_outside_0_to_1_is_refused() -> None:
    good = torch.zeros(1, 1, 2, 2)
    with pytest.raises(DataError, match="'patterns' is missing"):
        FAMILIES["patch"].load({"masks": good})
    for name in ("masks", "patterns"):
        for bad in (-0.1, 1.1, float("nan")):
            with pytest.raises(DataError, match=f"{name} of a patch"):
                FAMILIES["patch"].load({"masks": good, "patterns": good} | {name: good + bad})


def test_waves_are_the_cosines_of_scipy_with_amplitudes_by_root_mean_square() -> None:
    amplitudes = torch.zeros(1, 4, 6)
    amplitudes[0, 0, 3], amplitudes[0, 2, 1] = 0.1, -0.05
    trigger = WaveTrigger(amplitudes, (3, 8, 12))
    # an orthonormal transform of 8 × 12 pixels: a root mean square of 1 is a norm of the root of 96
    expected = idctn(np.pad(amplitudes[0].numpy(), ((0, 4), (0, 6))), norm="ortho") * 96**0.5
    change = trigger.changes()
    assert change.shape == (1, 1, 8, 12)
    assert np.allclose(change[0, 0].numpy(), expected, atol=1e-6)
    assert trigger.size().item() == pytest.approx(255 * 0.15)
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(trigger(x), (x + change[:, None]).clamp(0, 1))
