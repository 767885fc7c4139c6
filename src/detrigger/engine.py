"""Where chunks of classes are worked on: in threads of this process, or taken from an earlier run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save

from detrigger.heats import Chunk, Map, Tensors, Tick, Work
from detrigger.save import made, write_atomically


class _StoppedError(Exception):
    """Ends the work of a thread whose result nobody waits for any more."""


def threads(jobs: int) -> Map:
    """A map over `jobs` threads, one core each: convolutions release the interpreter lock.

    The result does not depend on `jobs`, since chunks do not. After an error or an interruption it ends at
    once; threads that still work end after their step.
    """

    def run(work: Work, chunks: Iterable[Chunk], tick: Tick, /) -> Iterator[tuple[Chunk, Tensors]]:
        stop, one_at_a_time = threading.Event(), threading.Lock()

        def watched(done: int) -> None:
            if stop.is_set():
                raise _StoppedError
            with one_at_a_time:  # so that whoever counts need not know of threads
                tick(done)

        cores = torch.get_num_threads()
        torch.set_num_threads(max(1, cores // jobs))
        pool = ThreadPoolExecutor(jobs)
        futures = {pool.submit(work, chunk, watched): chunk for chunk in chunks}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()  # of many classes they would take much memory
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            torch.set_num_threads(cores)

    return run


def remembered(run: Map, folder: Path, inputs: dict[str, object]) -> Map:
    """A map that keeps each chunk's result in `folder`, under the hash of all that it depends on.

    `inputs` is that (model, data, options, seed, version) but for the chunk itself. An interrupted run, begun
    again, takes what is there; a file that cannot be read is made anew. The folder is made with the first
    result.
    """

    def place(chunk: Chunk) -> Path:
        unit = {**inputs, "chunk": dataclasses.asdict(dataclasses.replace(chunk, rows={}))}
        key = json.dumps(unit, sort_keys=True, default=str)
        return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def cached(work: Work, chunks: Iterable[Chunk], tick: Tick, /) -> Iterator[tuple[Chunk, Tensors]]:
        missing = []
        for chunk in chunks:
            result = _read(place(chunk))
            if result is None:
                missing.append(chunk)
            else:
                yield chunk, result
        for chunk, result in run(work, missing, tick):
            made(folder)
            write_atomically(place(chunk), save(result))
            yield chunk, result

    return cached


def _read(path: Path) -> Tensors | None:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError):
        return None  # not there yet, half-written by a crash, or damaged
