"""The weight of the size, and which trigger counts as the best so far."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from detrigger.schedule import Pressure, from_rows, press, rows, start


def step(state: Pressure, size: float, success: float, **changed: float) -> tuple[Pressure, bool]:
    """One search, by default without memory."""
    options = {"wanted": 0.9, "rate": 2.0, "memory": 0.0} | changed
    state, better = press(state, torch.tensor([size]).float(), torch.tensor([success]).float(), **options)
    return state, better.item()


def test_at_the_start_nothing_has_been_found() -> None:
    state = start(3, 0.001)
    assert state.weight.tolist() == state.hardest.tolist() == pytest.approx([0.001] * 3)
    assert state.success.tolist() == state.stale.tolist() == [0] * 3
    assert state.best.tolist() == [float("inf")] * 3


def test_the_weight_doubles_while_success_holds_and_falls_faster_when_it_is_lost() -> None:
    state, _ = step(start(1, 1.0), 50, 0.9)
    assert state.weight.item() == 2
    state, _ = step(state, 50, 0.95)
    assert state.weight.item() == 4
    state, _ = step(state, 50, 0.89)
    assert state.weight.item() == pytest.approx(4 / 2**1.5)
    assert state.hardest.item() == 4  # the highest since the first success


def test_the_highest_weight_counts_from_the_first_success() -> None:
    state, _ = step(start(1, 1.0), 50, 0.5)
    assert state.hardest.item() == state.weight.item() == pytest.approx(2**-1.5)
    state, _ = step(state, 50, 1.0)
    assert state.hardest.item() == state.weight.item() == pytest.approx(2**-0.5)


def test_success_is_a_moving_average() -> None:
    state, _ = step(start(1, 1.0), 50, 1.0, memory=0.8)
    assert state.success.item() == pytest.approx(0.2)
    state, _ = step(state, 50, 1.0, memory=0.8)
    assert state.success.item() == pytest.approx(0.36)
    state, better = step(state, 50, 0.0, memory=0.8, wanted=0.288)
    assert state.success.item() == pytest.approx(0.288) and better
    state, better = step(state, 40, 0.0, memory=0.8, wanted=0.288)
    assert state.success.item() == pytest.approx(0.2304) and not better


def test_the_best_is_the_smallest_size_at_which_success_held() -> None:
    state = start(1, 1.0)
    bests = []
    for size, success in ((50, 0.5), (60, 0.95), (55, 0.95), (30, 0.5), (57, 0.95), (54.9, 0.95)):
        state, better = step(state, size, success)
        bests.append((better, state.best.item()))
    inf = float("inf")
    assert bests == [
        (False, inf),
        (True, 60),
        (True, 55),
        (False, 55),
        (False, 55),
        (True, pytest.approx(54.9)),
    ]


def test_a_search_is_stale_without_a_smaller_trigger_or_a_higher_weight() -> None:
    state = start(1, 1.0)
    story = [  # size, success, stale afterwards
        (50, 0.5, 1),  # lost; the weight falls to 0.35
        (50, 0.5, 2),  # 0.125
        (60, 1.0, 0),  # the first trigger; 0.25
        (70, 1.0, 0),  # larger, but the weight is at its highest since, 0.5
        (70, 0.5, 1),  # 0.18
        (59.5, 1.0, 2),  # smaller, but by less than 1 %; 0.35
        (70, 0.5, 3),  # 0.125
        (58, 1.0, 0),  # smaller by more than 1 %; 0.25
        (70, 1.0, 1),  # 0.5, as high as before
        (70, 1.0, 0),  # 1
        (70, 0.5, 1),
    ]
    for size, success, stale in story:
        state, _ = step(state, size, success)
        assert state.stale.item() == stale, (size, state.weight)


def test_searches_that_share_a_batch_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, successes = torch.rand(2, 6, 3, generator=generator)
    together = start(3, 1.0)
    alone = [start(1, 1.0) for _ in range(3)]
    for size, success in zip(sizes, successes, strict=True):
        together, better = press(together, size, success, wanted=0.5, rate=1.5, memory=0.3)
        for i in range(3):
            alone[i], mine = press(alone[i], size[[i]], success[[i]], wanted=0.5, rate=1.5, memory=0.3)
            assert mine.item() == better[i]
            for name, value in vars(alone[i]).items():
                assert value.item() == getattr(together, name)[i]


def test_the_state_given_is_not_changed() -> None:
    state = start(2, 1.0)
    before: dict[str, Tensor] = {name: value.clone() for name, value in vars(state).items()}
    press(state, torch.tensor([5.0, 6.0]), torch.ones(2), wanted=0.5, rate=2.0, memory=0.5)
    for name, value in before.items():
        assert torch.equal(value, getattr(state, name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.weight = torch.zeros(2)  # type: ignore[misc]


def test_searches_can_be_taken_apart_into_rows_and_put_together_again() -> None:
    state, _ = press(
        start(3, 1.0), torch.tensor([5.0, 6.0, 7.0]), torch.ones(3), wanted=0.5, rate=2.0, memory=0.1
    )
    values = rows(state)
    assert set(values) == set(vars(state)) and all(len(v) == 3 for v in values.values())
    parts = [from_rows({name: v[[i]] for name, v in values.items()}) for i in range(3)]
    joined = from_rows({name: torch.cat([vars(part)[name] for part in parts]) for name in values})
    assert joined.best.tolist() == [5, 6, 7]
    assert all(torch.equal(vars(joined)[name], value) for name, value in vars(state).items())
    assert vars(from_rows(values | {"passes": torch.zeros(3)})).keys() == values.keys()
