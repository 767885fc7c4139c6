"""Chunks spread over threads, and taken from an earlier run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import planted
from torch import Tensor

from detrigger.engine import remembered, threads
from detrigger.heats import Chunk, Goal, InvertConfig, Map, Stage, Tensors, Tick, Work, serial
from detrigger.invert import invert


def chunk(*targets: int, family: str = "patch", stage: int = 0, source: int | None = None) -> Chunk:
    return Chunk(family, stage, tuple(Goal(t, source) for t in targets))


CHUNKS = [chunk(0, 1), chunk(2), chunk(3, 4, 5)]
CONFIG = InvertConfig(stages=(Stage(15, 8), Stage(10, 16, 0.7)), batch=16, precision="fp32")
IN_ALL = 4 + 4
"""Chunks of six classes: two pairs and two alone, then four alone."""


@pytest.fixture
def cores() -> Iterator[int]:
    """Torch may use four threads during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def sums(chunk: Chunk, tick: Tick) -> Tensors:
    return {"sum": torch.tensor([float(sum(goal.target for goal in chunk.goals))])}


class Counted:
    """A function of chunks that remembers what it was called with, and may fail on the way."""

    def __init__(self, fails_after: int = 99) -> None:
        self.called: list[Chunk] = []
        self.fails_after = fails_after

    def __call__(self, chunk: Chunk, tick: Tick) -> Tensors:
        if len(self.called) == self.fails_after:
            raise KeyboardInterrupt
        self.called.append(chunk)
        return sums(chunk, tick)


def none(_steps: int) -> None:
    """A tick that nobody hears."""


def values(run: Map, work: Work, chunks: list[Chunk]) -> list[float]:
    """Results in the order of the chunks."""
    found = dict(run(work, chunks, none))
    return [found[chunk]["sum"].item() for chunk in chunks]


def test_threads_give_each_result_with_its_chunk(cores: int) -> None:
    def slow_first(chunk: Chunk, tick: Tick) -> Tensors:
        time.sleep(0.2 if chunk == CHUNKS[0] else 0)
        return sums(chunk, tick)

    assert values(threads(2), slow_first, CHUNKS) == [1, 2, 12]
    assert next(iter(threads(2)(slow_first, CHUNKS, none)))[0] != CHUNKS[0]


def test_threads_run_at_the_same_time(cores: int) -> None:
    together = threading.Barrier(3, timeout=10)

    def waiting(chunk: Chunk, tick: Tick) -> Tensors:
        together.wait()
        return sums(chunk, tick)

    assert values(threads(3), waiting, CHUNKS) == [1, 2, 12]


def test_threads_report_their_steps_one_at_a_time(cores: int) -> None:
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        before = done
        time.sleep(0.001)  # long enough for the other threads to get in between
        done = before + steps

    def stepping(chunk: Chunk, tick: Tick) -> Tensors:
        for _ in range(20):
            tick(1)
        return sums(chunk, none)

    list(threads(3)(stepping, CHUNKS, count))
    assert done == 20 * len(CHUNKS)


def test_threads_share_the_cores_and_give_them_back(cores: int) -> None:
    during: list[int] = []

    def asking(chunk: Chunk, tick: Tick) -> Tensors:
        during.append(torch.get_num_threads())
        return sums(chunk, tick)

    list(threads(2)(asking, CHUNKS, none))
    assert during == [2, 2, 2] and torch.get_num_threads() == cores
    list(threads(16)(asking, CHUNKS, none))
    assert during[3:] == [1, 1, 1] and torch.get_num_threads() == cores


def test_threads_give_the_cores_back_after_an_error_or_an_early_end(cores: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(threads(2)(Counted(fails_after=1), CHUNKS, none))
    assert torch.get_num_threads() == cores
    half = iter(threads(2)(sums, CHUNKS, none))
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == cores


def test_a_search_over_threads_gives_the_same_as_one_after_another() -> None:
    truth = planted()
    alone = invert(truth.model, truth.images, tuple(range(6)), "patch", CONFIG, seed=0)
    spread = invert(truth.model, truth.images, tuple(range(6)), "patch", CONFIG, seed=0, map=threads(2))
    assert torch.equal(alone.trigger.mask(), spread.trigger.mask())
    assert torch.equal(alone.success, spread.success) and alone.image_passes == spread.image_passes


def test_what_was_done_before_is_not_done_again(tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    assert values(remembered(serial, tmp_path, {"seed": 0}), first, CHUNKS) == [1, 2, 12]
    assert values(remembered(serial, tmp_path, {"seed": 0}), second, [*CHUNKS, chunk(9)]) == [1, 2, 12, 9]
    assert first.called == CHUNKS and second.called == [chunk(9)]


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"model": "cd"}, {"config": {"steps": 2, "batch": 3}}, {"version": "2"}]
)
def test_other_inputs_are_done_anew(changed: dict[str, object], tmp_path: Path) -> None:
    inputs: dict[str, object] = {"seed": 0, "model": "ab", "config": {"batch": 3, "steps": 1}}
    list(remembered(serial, tmp_path, inputs)(Counted(), CHUNKS, none))
    again, other = Counted(), Counted()
    list(remembered(serial, tmp_path, dict(reversed(inputs.items())))(again, CHUNKS, none))
    list(remembered(serial, tmp_path, inputs | changed)(other, CHUNKS, none))
    assert again.called == [] and other.called == CHUNKS


def test_the_same_classes_in_other_chunks_are_done_anew(tmp_path: Path) -> None:
    list(remembered(serial, tmp_path, {})(sums, CHUNKS, none))
    other = Counted()
    assert values(remembered(serial, tmp_path, {}), other, [chunk(0), chunk(1), chunk(2)]) == [0, 1, 2]
    assert other.called == [chunk(0), chunk(1)]


@pytest.mark.parametrize("changed", [{"family": "warp"}, {"stage": 1}, {"source": 4}])
def test_the_same_classes_in_another_family_heat_or_pair_are_done_anew(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    list(remembered(serial, tmp_path, {})(sums, CHUNKS, none))
    other = Counted()
    list(remembered(serial, tmp_path, {})(other, [chunk(2, **changed)], none))
    assert other.called == [chunk(2, **changed)]


@pytest.mark.parametrize("damage", ["empty", "cut", "overwritten"])
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path) -> None:
    list(remembered(serial, tmp_path, {})(sums, CHUNKS, none))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    whole = files[1].read_bytes()
    content = {"empty": b"", "cut": whole[:-2], "overwritten": b"\xff" * len(whole)}
    files[1].write_bytes(content[damage])
    again = Counted()
    assert values(remembered(serial, tmp_path, {}), again, CHUNKS) == [1, 2, 12]
    assert len(again.called) == 1 and files[1].read_bytes() == whole
    assert sorted(tmp_path.iterdir()) == files


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(remembered(serial, tmp_path, {})(Counted(fails_after=2), CHUNKS, none))
    rest = Counted()
    assert values(remembered(serial, tmp_path, {}), rest, CHUNKS) == [1, 2, 12]
    assert rest.called == CHUNKS[2:]


@pytest.mark.parametrize(("stop_at", "done_by_then"), [(40, 1), (106, 5)])  # in the first heat, in the second
@pytest.mark.parametrize("run", [serial, threads(2)])
def test_a_search_that_was_interrupted_ends_like_one_that_was_not(
    run: Map, stop_at: int, done_by_then: int, tmp_path: Path
) -> None:
    truth = planted()

    def search(map_: Map, stop_at: int = -1) -> Tensor:
        def progress(done: int, total: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        targets = tuple(range(6))
        found = invert(
            truth.model, truth.images, targets, "patch", CONFIG, seed=0, map=map_, progress=progress
        )
        return found.trigger.mask()

    with pytest.raises(KeyboardInterrupt):
        search(remembered(run, tmp_path, {}), stop_at=stop_at)
    kept = list(tmp_path.iterdir())
    assert run is not serial or len(kept) == done_by_then
    assert torch.equal(search(remembered(run, tmp_path, {})), search(serial))
    assert len(list(tmp_path.iterdir())) == IN_ALL
