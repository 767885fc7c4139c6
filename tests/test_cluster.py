"""Chunks spread by Ray, for which something small stands in; the real one is in benchmarks/ray."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from planted import planted

from detrigger.cluster import AHEAD, cluster
from detrigger.errors import DetriggerError, ModelError, UsageError
from detrigger.heats import Chunk, Goal, InvertConfig, Stage, Tensors, Tick
from detrigger.invert import invert


class RayTaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class RayError(Exception):
    pass


class Ray:
    """Runs what it is given when it is waited for, the last first, on copies: as another machine would."""

    exceptions = SimpleNamespace(RayTaskError=RayTaskError, RayError=RayError)
    cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)

    def __init__(self, resources: dict[str, float]) -> None:
        self.resources, self.options, self.begun = resources, dict[str, Any](), dict[str, Any]()
        self.tasks: dict[int, Callable[[], bytes]] = {}
        self.most, self.cancelled, self.ended, self.lost = 0, 0, False, False

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.begun = options

    def shutdown(self) -> None:
        self.ended = True

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: object) -> bytes:
        return pickle.dumps(value)

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda *a: self._submit(function, *a))

    def _submit(self, function: Callable[..., Any], work: bytes, chunk: Chunk) -> int:
        sent = pickle.dumps(chunk)
        self.tasks[number := len(self.tasks)] = lambda: pickle.dumps(
            function(pickle.loads(work), pickle.loads(sent))  # noqa: S301 - made just above
        )
        return number

    def wait(self, references: Sequence[int], num_returns: int) -> tuple[list[int], list[int]]:
        self.most = max(self.most, len(references))
        return [references[-1]], list(references[:-1])

    def get(self, reference: int) -> Any:
        if self.lost:
            raise RayError("the machine is gone\nand more")
        try:
            return pickle.loads(self.tasks[reference]())  # noqa: S301 - made in this process
        except ModelError as error:
            raise RayTaskError(error) from error

    def cancel(self, reference: int, force: bool) -> None:
        self.cancelled += 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    made = Ray({"CPU": 2.0, "GPU": 1.0})
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    threads = torch.get_num_threads()
    yield made
    torch.set_num_threads(threads)


CHUNKS = [Chunk("patch", 0, (Goal(i),), {"n": torch.tensor(float(i))}) for i in range(7)]


def doubled(chunk: Chunk, tick: Tick) -> Tensors:
    tick(2)
    tick(3)
    return {"n": 2 * chunk.rows["n"]}


def failing(chunk: Chunk, tick: Tick) -> Tensors:
    raise ModelError("NaN everywhere")


def test_every_chunk_comes_back_once_with_its_result(ray: Ray) -> None:
    ticks: list[int] = []
    with cluster() as run:
        found = [(chunk, int(result["n"])) for chunk, result in run(doubled, CHUNKS, ticks.append)]
    assert sorted(n for _, n in found) == [0, 2, 4, 6, 8, 10, 12] and dict(found)[CHUNKS[3]] == 6
    assert ticks == [5] * 7 and ray.most == AHEAD * 2 and ray.ended and not ray.cancelled


def test_a_search_on_a_cluster_gives_the_same_as_one_after_another(ray: Ray) -> None:
    truth = planted()
    config = InvertConfig(stages=(Stage(15, 8), Stage(10, 16, 0.7)), batch=16, precision="fp32")
    alone = invert(truth.model, truth.images, tuple(range(6)), "patch", config, seed=0)
    done: list[int] = []
    with cluster() as run:
        spread = invert(
            truth.model,
            truth.images,
            tuple(range(6)),
            "patch",
            config,
            seed=0,
            map=run,
            progress=lambda now, total: done.append(now) or None,  # type: ignore[func-returns-value]
        )
    assert torch.equal(alone.trigger.mask(), spread.trigger.mask())
    assert torch.equal(alone.success, spread.success) and alone.image_passes == spread.image_passes
    assert done == sorted(done) and done[-1] == 6 * 15 + 4 * 10


def test_lost_machines_are_replaced_gpus_shared_and_nothing_is_told_to_others(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with cluster(gpus=0.25) as run:
        list(run(doubled, CHUNKS, lambda _: None))
    assert ray.options == {"num_cpus": 1, "num_gpus": 0.25, "max_retries": 3} and ray.most == 7
    assert ray.begun["include_dashboard"] is False
    import os

    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with cluster():
        assert "include_dashboard" not in ray.begun  # it is not ours


def test_what_fails_there_fails_here_and_the_rest_is_cancelled(ray: Ray) -> None:
    with pytest.raises(ModelError, match=r"^NaN everywhere$"), cluster() as run:
        list(run(failing, CHUNKS, lambda _: None))
    assert ray.cancelled == AHEAD * 2 and ray.ended
    ray.lost = True
    lost = r"^the cluster lost a part of the work \(the machine is gone\); go on with --resume$"
    with pytest.raises(DetriggerError, match=lost), cluster() as run:
        list(run(doubled, CHUNKS, lambda _: None))


def test_a_missing_ray_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'detrigger\[ray\]'"), cluster():
        pass
