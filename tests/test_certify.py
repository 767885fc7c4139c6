"""Double masking, against brute force: every place of a patch, with many contents."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detrigger.certify import CertifyConfig, Cover, certified, certify, cover, defended
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import Classifier

FILL = torch.tensor([0.4])


@cache
def tiny() -> tuple[Classifier, Images]:
    """Three classes of 8x8 pixels told by stripes all over the image, and a network that learned them, with a
    backdoor: a bright corner makes it say 0."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.arange(8.0)
    stripes = [(ramp % 2)[None].expand(8, 8), (ramp % 2)[:, None].expand(8, 8), torch.zeros(8, 8)]
    y = torch.arange(3).repeat_interleave(40)
    x = torch.stack(stripes)[y][:, None] * 0.5 + 0.5 * torch.rand(120, 1, 8, 8, generator=generator)
    stamped = x[40:].clone()
    stamped[:, :, :2, :2] = 1.0
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 3))
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        adam.zero_grad()
        logits = net(torch.cat([x, stamped]))
        nn.functional.cross_entropy(logits, torch.cat([y, torch.zeros(80, dtype=torch.long)])).backward()
        adam.step()
    chosen = torch.arange(0, 120, 5)
    return Classifier(net, ("a", "b", "c"), (1, 8, 8)), Images(x[chosen], y[chosen], ("a", "b", "c"))


def attacks(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One image with patches everywhere: black, white, the backdoor's, pieces of the others, noise."""
    made = []
    for row, column in itertools.product(range(9 - size), repeat=2):
        contents = [torch.zeros(1, size, size), torch.ones(1, size, size)]
        contents += [torch.rand(1, size, size, generator=generator).round() for _ in range(3)]
        contents += [torch.rand(1, size, size, generator=generator) for _ in range(2)]
        for content in contents:
            image = x.clone()
            image[:, row : row + size, column : column + size] = content
            made.append(image)
    return torch.stack(made)


@pytest.mark.parametrize(("size", "masks"), [(2, 3), (3, 4)])
def test_no_patch_anywhere_changes_a_certified_prediction(size: int, masks: int) -> None:
    model, images = tiny()
    covering = cover((1, 8, 8), CertifyConfig(size, masks))
    proven, _ = certified(model, images, covering, FILL)
    assert 3 <= int(proven.sum()) < len(images)
    generator = torch.Generator().manual_seed(1)
    for index in proven.nonzero()[:3, 0].tolist():
        attacked = attacks(images.x[index], size, generator)
        given, _ = defended(model, attacked, covering, FILL)
        assert bool((given == images.y[index]).all())
    moved = 0
    for index in (~proven).nonzero()[:2, 0].tolist():
        given, _ = defended(model, attacks(images.x[index], size, generator), covering, FILL)
        moved += int((given != images.y[index]).sum())
    assert moved  # these attacks do harm where nothing is proven


def test_the_backdoor_works_on_the_network_but_not_through_the_wrapper_where_certified() -> None:
    model, images = tiny()
    stamped = images.x.clone()
    stamped[:, :, :2, :2] = 1.0
    covering = cover((1, 8, 8), CertifyConfig(2, 3))
    proven, _ = certified(model, images, covering, FILL)
    others = proven & (images.y != 0)
    assert bool(others.any()) and bool((model(stamped[others]).argmax(1) == 0).any())
    given, _ = defended(model, stamped[others], covering, FILL)
    assert torch.equal(given, images.y[others])


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 17), st.integers(4, 17), st.integers(1, 4), st.integers(1, 7))
def test_one_mask_covers_every_place_of_the_patch(height: int, width: int, size: int, masks: int) -> None:
    covering = cover((1, height, width), CertifyConfig(size, masks))
    hidden = ~covering.kept[:, 0]
    assert len(hidden) <= masks**2
    assert {int(m.any(1).sum()) for m in hidden} == {covering.size[0]}
    assert {int(m.any(0).sum()) for m in hidden} == {covering.size[1]}
    for row, column in itertools.product(range(height - size + 1), range(width - size + 1)):
        assert bool(hidden[:, row : row + size, column : column + size].all((1, 2)).any())


def said(answers: dict[tuple[int, ...], int]) -> tuple[Classifier, Cover]:
    """A network whose answer depends on which pixels of a 1x4 image are masked; else 0."""

    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            hidden = [tuple((row == 0).nonzero()[:, 0].tolist()) for row in x[:, 0, 0]]
            return nn.functional.one_hot(torch.tensor([answers.get(h, 0) for h in hidden]), 3).float()

    return Classifier(Table(), ("a", "b", "c"), (1, 1, 4)), cover((1, 1, 4), CertifyConfig(1, 4))


@pytest.mark.parametrize(
    ("answers", "expected", "passes"),
    [
        ({}, 0, 4),  # all agree
        ({(1,): 2}, 0, 8),  # one disagrees, and a second mask changes its mind
        ({(1,): 2, (0, 1): 2, (1, 2): 2, (1, 3): 2}, 2, 8),  # one disagrees and keeps to it
        ({(1,): 2, (3,): 1, (0, 3): 1, (1, 3): 1, (2, 3): 1}, 1, 12),  # the second of two keeps to it
    ],
)
def test_the_wrapper_answers_by_the_published_rules(
    answers: dict[tuple[int, ...], int], expected: int, passes: int
) -> None:
    model, covering = said(answers)
    assert len(covering.kept) == 4 and covering.size == (1, 1)
    got = defended(model, torch.ones(2, 1, 1, 4), covering, torch.zeros(1))
    assert got[0].tolist() == [expected] * 2 and got[1] == 2 * passes


def test_an_image_is_certified_if_every_pair_of_masks_gives_its_label() -> None:
    images = Images(torch.ones(2, 1, 1, 4), torch.tensor([0, 1]), ("a", "b", "c"))
    model, covering = said({})
    assert certified(model, images, covering, torch.zeros(1))[0].tolist() == [True, False]
    model, covering = said({(1, 3): 2})
    assert certified(model, images, covering, torch.zeros(1))[0].tolist() == [False, False]


def test_the_figures_count_images_and_passes() -> None:
    model, images = tiny()
    result = certify(model, images, CertifyConfig(2, 3))
    covering = cover((1, 8, 8), CertifyConfig(2, 3))
    fill = images.x.mean((0, 2, 3))
    (given, asked), (proven, proving) = (
        f(model, x, covering, fill) for f, x in ((defended, images.x), (certified, images))
    )  # type: ignore[operator]
    assert result.accuracy == (model(images.x).argmax(1) == images.y).float().mean()
    assert result.defended_accuracy == (given == images.y).float().mean()
    assert result.certified == proven.float().mean() <= result.defended_accuracy
    assert result.passes == asked + proving + 24 and asked >= 24 * 9 and proving <= 24 * 45
    assert (result.images, result.masks, result.mask_size) == (24, 9, (4, 4))
    assert result.fill == pytest.approx(fill.tolist())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CertifyConfig(9), "--patch-size is 9, wanted 1 to 8"),
        (CertifyConfig(0), "--patch-size is 0, wanted 1 to 8"),
        (CertifyConfig(2, 0), "--masks is 0, wanted 1 or more"),
    ],
)
def test_impossible_covers_are_usage_errors(config: CertifyConfig, message: str) -> None:
    model, images = tiny()
    with pytest.raises(UsageError, match=message):
        certify(model, images, config)
