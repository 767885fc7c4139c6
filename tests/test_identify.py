"""Two triggers side by side."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import PENULTIMATE, planted
from skimage.metrics import structural_similarity as reference
from torch import Tensor, nn

from detrigger.errors import DataError, UsageError
from detrigger.identify import compare, looked_into, structural_similarity
from detrigger.model import Classifier
from detrigger.trigger.patch import PatchTrigger


def rectangle(rows: slice, columns: slice, colour: float, strength: float = 1.0) -> PatchTrigger:
    """On 12×12 images of one channel."""
    mask, pattern = torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12)
    mask[..., rows, columns], pattern[..., rows, columns] = strength, colour
    return PatchTrigger(mask, pattern)


def test_a_trigger_matches_itself() -> None:
    truth = planted()
    match = compare(truth.model, truth.images, truth.triggers[0], truth.triggers[0], 2)
    assert (match.target, match.success_found, match.success_known) == (2, 1, 1)
    assert (match.size_found, match.size_known) == (9, 9)
    assert (match.mask_overlap, match.centre_distance, match.colour_difference) == (1, 0, 0)
    assert match.structural_similarity == pytest.approx(1)
    assert [n.layer for n in match.neurons] == [PENULTIMATE, "conv2", "norm"]
    for neurons in match.neurons:
        assert neurons.cosine == pytest.approx(1) and neurons.top_overlap == 1
        assert neurons.activation_found == neurons.activation_known > neurons.activation_clean


def test_the_trigger_of_another_backdoor_does_not_match() -> None:
    truth = planted(targets=(2, 4))
    match = compare(truth.model, truth.images, truth.triggers[1], truth.triggers[0], 2)
    assert (match.success_found, match.success_known) == (0, 1)
    assert match.mask_overlap == 0 and match.structural_similarity < 0.8
    assert match.centre_distance == pytest.approx(9 * math.sqrt(2))
    assert math.isnan(match.colour_difference)
    inner = match.neurons[0]
    assert inner.cosine == pytest.approx(0, abs=1e-3) and inner.top_overlap == 0
    assert inner.activation_found == pytest.approx(inner.activation_clean)


def test_part_of_a_trigger_fires_the_same_neuron_less() -> None:
    truth = planted()
    whole = truth.triggers[0]
    part = PatchTrigger(whole.masks.clone(), whole.patterns)
    part.masks[..., 11, :] = 0
    match = compare(truth.model, truth.images, part, whole, 2)
    assert match.size_found == 6 and match.mask_overlap == pytest.approx(6 / 9)
    assert match.centre_distance == pytest.approx(0.5)
    inner = match.neurons[0]
    assert inner.cosine == pytest.approx(1, abs=1e-4) and inner.top_neurons == 1 and inner.top_overlap == 1
    assert inner.activation_clean == pytest.approx(0.09, abs=0.02)
    assert inner.activation_known == pytest.approx(1, abs=1e-4)
    assert 0.6 < inner.activation_found < 0.8


def test_success_and_neurons_are_measured_on_images_of_other_classes_only() -> None:
    truth = planted()
    a, b = truth.triggers[0], truth.triggers[0]
    others = truth.images.where(truth.images.y != 2)
    assert compare(truth.model, truth.images, a, b, 2) == compare(truth.model, others, a, b, 2)


def test_soft_masks_overlap_by_sums_of_minima_and_maxima() -> None:
    truth = planted()
    found = rectangle(slice(0, 2), slice(0, 2), 0.2, 0.5)
    known = rectangle(slice(0, 2), slice(1, 4), 0.9)
    match = compare(truth.model, truth.images, found, known, 2)
    assert match.mask_overlap == pytest.approx((2 * 0.5) / (2 * 0.5 + 6))
    assert match.centre_distance == pytest.approx(1.5)
    assert match.colour_difference == pytest.approx(0.7)


def test_colours_count_by_the_smaller_mask() -> None:
    truth = planted()
    found = rectangle(slice(0, 1), slice(0, 2), 0.5)
    found.patterns[..., 0, 1] = 0.9
    known = rectangle(slice(0, 1), slice(0, 1), 0.5)
    known.masks[..., 0, 1] = 0.25  # black there
    match = compare(truth.model, truth.images, found, known, 2)
    assert match.colour_difference == pytest.approx(0.9 * 0.25 / 1.25)


def test_an_empty_mask_has_no_centre() -> None:
    truth = planted()
    empty = PatchTrigger(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12))
    match = compare(truth.model, truth.images, empty, truth.triggers[0], 2)
    assert math.isnan(match.centre_distance) and match.mask_overlap == 0 and match.success_found == 0


def test_layers_can_be_chosen() -> None:
    truth = planted()
    match = compare(truth.model, truth.images, *truth.triggers, *truth.triggers, 2, ("conv1", "fc"))
    assert [n.layer for n in match.neurons] == ["conv1", "fc"]
    with pytest.raises(UsageError, match="no layer 'nowhere'"):
        compare(truth.model, truth.images, *truth.triggers, *truth.triggers, 2, ("nowhere",))


def test_by_default_the_penultimate_the_last_and_the_middle_layer_are_looked_into() -> None:
    def stack(depth: int) -> Classifier:
        parts = [layer for _ in range(depth) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())]
        net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(4, 2))
        return Classifier(net, ("a", "b"), (1, 2, 2))

    assert looked_into(stack(0)) == ("1:in",)
    assert looked_into(stack(1)) == ("3:in", "0")
    assert looked_into(stack(2)) == ("5:in", "2", "0")
    assert looked_into(stack(5)) == ("11:in", "8", "4")


@pytest.mark.parametrize(("width", "count"), [(99, 1), (200, 2), (201, 3), (700, 7)])
def test_the_top_neurons_are_one_percent_rounded_up(width: int, count: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, width), nn.ReLU(), nn.Linear(width, 6))
    truth = planted()
    model = Classifier(net, truth.model.classes, (1, 12, 12))
    found = rectangle(slice(0, 4), slice(0, 4), 1.0)
    neurons = compare(model, truth.images, found, truth.triggers[0], 2).neurons[0]
    clean, with_known, with_found = (
        torch.relu(net[1](x.flatten(1))).mean(0).detach()
        for others in [truth.images.x[truth.images.y != 2]]
        for x in (others, truth.triggers[0](others)[0], found(others)[0])
    )
    top, top_found = ((x - clean).argsort(descending=True)[:count] for x in (with_known, with_found))
    assert neurons.top_neurons == count
    assert neurons.top_overlap == pytest.approx(len(set(top.tolist()) & set(top_found.tolist())) / count)
    for got, wanted in (
        (neurons.activation_clean, clean[top].mean()),
        (neurons.activation_known, with_known[top].mean()),
        (neurons.activation_found, with_found[top].mean()),
    ):
        assert got == pytest.approx(wanted.item(), abs=1e-5)
    a, b = with_found - clean, with_known - clean
    assert neurons.cosine == pytest.approx((a @ b / a.norm() / b.norm()).item(), abs=1e-4)


@pytest.mark.parametrize("target", [-1, 6])
def test_a_target_that_is_not_there_is_refused(target: int) -> None:
    truth = planted()
    with pytest.raises(UsageError, match="wanted 0 to 5"):
        compare(truth.model, truth.images, *truth.triggers, *truth.triggers, target)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 12, 12), (2, 1, 12, 12)])
def test_a_trigger_of_another_shape_is_refused_by_name(shape: tuple[int, int, int, int]) -> None:
    truth = planted()
    wrong = PatchTrigger(torch.zeros(shape[0], 1, *shape[2:]), torch.zeros(shape))
    right = truth.triggers[0]
    with pytest.raises(DataError, match=r"the found trigger is .* wanted 1×1×12×12"):
        compare(truth.model, truth.images, wrong, right, 2)
    with pytest.raises(DataError, match="the known trigger is"):
        compare(truth.model, truth.images, right, wrong, 2)


def test_images_of_the_target_class_alone_are_refused() -> None:
    truth = planted()
    only = truth.images.where(truth.images.y == 2)
    with pytest.raises(DataError, match="all images are of the target class 2"):
        compare(truth.model, only, *truth.triggers, *truth.triggers, 2)


@given(st.integers(0, 2**31), st.sampled_from([1, 3]), st.integers(11, 20), st.integers(11, 20))
def test_structural_similarity_agrees_with_scikit_image(seed: int, c: int, h: int, w: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(c, h, w, generator=generator)
    b = (a + torch.rand(c, h, w, generator=generator) * 0.4).clamp(0, 1)
    wanted = reference(
        a.double().numpy(),
        b.double().numpy(),
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert structural_similarity(a, b) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("size", "window"), [((7, 9), 7), ((8, 30), 7), ((2, 2), 1)])
def test_small_pictures_get_the_largest_odd_window_that_fits(size: tuple[int, int], window: int) -> None:
    a, b = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0)).double()
    bell = torch.tensor([math.exp(-((i - window // 2) ** 2) / 4.5) for i in range(window)]).double()
    weights = torch.outer(bell, bell) / bell.sum() ** 2
    values: list[Tensor] = []
    for channel in range(2):
        for y in range(size[0] - window + 1):
            for x in range(size[1] - window + 1):
                p, q = (v[channel, y : y + window, x : x + window] for v in (a, b))
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                luminance = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
                values.append(luminance * (2 * cov + 9e-4) / (vp + vq + 9e-4))
    assert structural_similarity(a, b) == pytest.approx(torch.stack(values).mean().item(), abs=1e-6)
