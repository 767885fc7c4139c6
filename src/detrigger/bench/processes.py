"""Work spread over processes of one thread each: what a model costs does not depend on its neighbours."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar, runtime_checkable

import torch

from detrigger.errors import UsageError

Order = TypeVar("Order")
Done = TypeVar("Done")


@runtime_checkable
class Run(Protocol):
    """Like `map`, but results may come in any order."""

    def __call__(self, work: Callable[[Order], Done], orders: list[Order], /) -> Iterable[Done]:
        """What `work` makes of each order."""


def processes(jobs: int, *, fresh: bool = False) -> Run:
    """A map over `jobs` processes; with `fresh` each order gets a new one, whose memory can be measured.

    `work` and orders must be picklable. The first error ends it. Raises UsageError for less than one job, and
    if a process was killed.
    """
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}, wanted 1 or more")

    def run(work: Callable[[Order], Done], orders: list[Order], /) -> Iterator[Done]:
        if not orders:
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            min(jobs, len(orders)),
            context,
            torch.set_num_threads,
            (1,),
            max_tasks_per_child=1 if fresh else None,
        )
        try:
            for future in as_completed([pool.submit(work, order) for order in orders]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UsageError(
                f"one of {jobs} processes was killed, perhaps for want of memory; what is finished is kept: "
                "run the same command again, with fewer --jobs if memory was short"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return run


def peak_memory() -> int:
    """Of this process so far, in bytes; macOS counts bytes, others kilobytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
