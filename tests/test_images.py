"""Labelled images, splits and draws."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config

from detrigger.errors import DataError
from detrigger.images import LEAST, Images, drawn, split


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """As for a user: shapes in signatures are checked in tests only, and would be refused first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def labelled(counts: list[int]) -> Images:
    """One image per position, whose single pixel tells which it is."""
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    x = (torch.arange(len(y)) / max(len(y), 2)).reshape(-1, 1, 1, 1)
    return Images(x, y, tuple(f"class {i}" for i in range(len(counts))), "folder", "1234")


def positions(images: Images) -> set[float]:
    return set(images.x.flatten().tolist())


def test_images_know_their_shape_and_length() -> None:
    images = Images(torch.rand(5, 3, 4, 6), torch.zeros(5, dtype=torch.long), ("a",))
    assert images.shape == (3, 4, 6) and len(images) == 5


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_a_pixel_outside_0_to_1_is_refused(bad: float) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    x[1, 0, 1, 1] = bad
    with pytest.raises(DataError, match=r"wanted \[0, 1\]"):
        Images(x, torch.tensor([0, 0]), ("a",))


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
def test_a_label_without_a_name_is_refused(labels: list[int]) -> None:
    with pytest.raises(DataError, match="wanted 0 to 1"):
        Images(torch.zeros(2, 1, 2, 2), torch.tensor(labels), ("a", "b"))


def test_no_images_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        Images(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.long), ("a",))


def test_another_number_of_labels_than_images_is_refused(unchecked_shapes: None) -> None:
    with pytest.raises(DataError, match="2 images but 3 labels"):
        Images(torch.zeros(2, 1, 2, 2), torch.zeros(3, dtype=torch.long), ("a",))


def test_where_takes_a_mask_or_positions_and_keeps_the_origin() -> None:
    images = labelled([2, 3])
    some = images.where(images.y == 1)
    assert len(some) == 3 and set(some.y.tolist()) == {1}
    assert (some.names, some.path, some.sha256) == (images.names, "folder", "1234")
    assert torch.equal(images.where(torch.tensor([4, 0])).x, images.x[[4, 0]])


shares = st.lists(st.floats(0.05, 0.5), min_size=1, max_size=4).filter(lambda s: sum(s) <= 1)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), shares, st.integers(0, 5))
def test_parts_of_a_split_are_disjoint_and_stratified(
    counts: list[int], wanted: list[float], seed: int
) -> None:
    if not any(counts):
        return
    images = labelled(counts)
    try:
        parts = split(images, wanted, seed=seed)
    except DataError:  # allowed only if some part would get less than one image of every class
        assert min(max(counts) * share for share in wanted) <= 1
        return
    drawn = [positions(part) for part in parts]
    assert sum(map(len, drawn)) == sum(map(len, parts)) == len(set.union(*drawn))
    for part, share in zip(parts, wanted, strict=True):
        for label, count in enumerate(counts):
            assert abs(int((part.y == label).sum()) - share * count) <= 1 + 1e-4
        assert all(
            images.y[images.x.flatten() == x] == y for x, y in zip(part.x.flatten(), part.y, strict=True)
        )


def test_shares_that_sum_to_1_use_every_image() -> None:
    images = labelled([7, 11, 3])
    parts = split(images, (0.3, 0.3, 0.4), seed=1)
    assert set.union(*(positions(p) for p in parts)) == positions(images)


@pytest.mark.parametrize("each", [1, 2, 3, 7])
def test_classes_of_few_images_are_in_every_part_by_its_share(each: int) -> None:
    images = labelled([each] * 100 + [20])
    for seed in range(5):
        parts = split(images, (0.6, 0.16, 0.24), seed=seed)
        for part, share in zip(parts, (0.6, 0.16, 0.24), strict=True):
            small = part.y[part.y < 100]
            assert abs(len(small) - 100 * each * share) <= 1
            assert len(small.unique()) >= 100 * min(1, each * share) - 1


def test_chance_does_not_decide_whether_images_are_too_few() -> None:
    for seed in range(5):
        with pytest.raises(DataError, match="18 images are too few for 3 disjoint parts"):
            split(labelled([3] * 6), (0.6, 0.16, 0.24), seed=seed)


@given(st.lists(st.integers(0, 14), min_size=1, max_size=8), st.integers(0, 5))
def test_parts_that_begin_with_the_same_shares_begin_alike(counts: list[int], seed: int) -> None:
    images = labelled([*counts, 20])
    once, twice = (split(images, (0.6, *rest), seed=seed)[0] for rest in ((0.4,), (0.16, 0.24)))
    assert positions(once) == positions(twice)  # so a scan searches on nothing that certifies a repair


def test_the_same_seed_splits_alike_and_another_does_not() -> None:
    images = labelled([30, 30])
    a, b, c = (positions(split(images, (0.5,), seed=s)[0]) for s in (1, 1, 2))
    assert a == b != c


def test_a_split_with_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        split(labelled([2, 2]), (0.9, 0.1), seed=0)


def test_at_most_so_many_of_each_class_are_drawn() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 2, 0, 0, 2, 1, 2, 0, 2, 2, 2, 2])
    some = drawn(labels, per_class=4, seed=0)
    assert labels[some].bincount().tolist() == [4, 2, 4]
    assert some.tolist() == sorted(set(some.tolist())) == drawn(labels, per_class=4, seed=0).tolist()
    assert some.tolist() != drawn(labels, per_class=4, seed=1).tolist()
    assert drawn(labels, seed=0).tolist() == drawn(labels, in_all=16, seed=0).tolist() == list(range(16))


def test_each_image_is_drawn_about_equally_often() -> None:
    seen = torch.cat([drawn(torch.zeros(6, dtype=torch.long), per_class=3, seed=s) for s in range(200)])
    often = seen.bincount()
    assert len(often) == 6 and int(often.min()) > 70 and int(often.max()) < 130


def test_a_limit_in_all_is_shared_by_the_classes_or_leaves_some_out() -> None:
    labels = torch.arange(10).repeat_interleave(20)
    assert labels[drawn(labels, in_all=80, seed=0)].bincount().tolist() == [8] * 10
    few = labels[drawn(labels, in_all=18, seed=0)].bincount()
    assert sorted(few.tolist())[-4:] == [0, LEAST, LEAST, LEAST] and int(few.sum()) == 3 * LEAST
    assert labels[drawn(labels, in_all=80, per_class=3, seed=0)].bincount().tolist() == [3] * 10
