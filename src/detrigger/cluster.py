"""Where chunks of classes are worked on: by the machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from detrigger.errors import DetriggerError, UsageError
from detrigger.heats import Chunk, Map, Tensors, Tick, Work
from detrigger.load.architecture import OWN_CODE

RETRIES = 3
"""How often a chunk is begun again when its process or machine is lost."""
AHEAD = 2
"""Chunks that wait at the cluster, per chunk that can run."""


@contextmanager
def cluster(gpus: float = 0.0) -> Iterator[Map]:
    """A map over the cluster that RAY_ADDRESS names, else one of this machine, which ends with the block.

    A chunk takes one core and `gpus` of a GPU: 0.25 puts four chunks on each. Nothing is kept at the cluster;
    results come back here. Every machine needs detrigger. Raises UsageError if Ray is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by Ray, which would else report on us
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray; pip install 'detrigger[ray]'") from error
    own = not ray.is_initialized()
    if own:
        there: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **there)
    try:
        yield _spread(ray, gpus)
    finally:
        if own:
            ray.shutdown()


def _spread(ray: Any, gpus: float) -> Map:
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_done)

    def run(work: Work, chunks: Iterable[Chunk], tick: Tick, /) -> Iterator[tuple[Chunk, Tensors]]:
        for name, module in list(sys.modules.items()):
            if name.startswith(OWN_CODE):  # of the user, which the other machines do not have
                ray.cloudpickle.register_pickle_by_value(module)
        shared, left = ray.put(work), iter(chunks)
        waiting: dict[Any, Chunk] = {}
        try:
            while True:
                while len(waiting) < AHEAD * _slots(ray, gpus) and (chunk := next(left, None)):
                    waiting[remote.remote(shared, chunk)] = chunk
                if not waiting:
                    return
                ready = ray.wait(list(waiting), num_returns=1)[0][0]
                result, steps = _fetched(ray, ready)
                tick(steps)
                yield waiting.pop(ready), result
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    return run


def _done(work: Work, chunk: Chunk) -> tuple[Tensors, int]:
    """The work on one chunk, in a process of the cluster; and how many steps it took."""
    torch.set_num_threads(1)
    steps: list[int] = []
    return work(chunk, steps.append), sum(steps)


def _slots(ray: Any, gpus: float) -> int:
    """Chunks that the cluster, as large as it is now, can work on at the same time."""
    there = ray.cluster_resources()
    return max(1, int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1)))


def _fetched(ray: Any, reference: Any) -> tuple[Tensors, int]:
    try:
        found: tuple[Tensors, int] = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # what was wrong with the work, as it would have been raised here
    except ray.exceptions.RayError as error:
        reason = str(error).strip().split("\n")[0]
        raise DetriggerError(
            f"the cluster lost a part of the work ({reason}); go on with --resume"
        ) from error
