"""How chunks of classes are run: one after another, by several threads, or taken from an earlier run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save

from detrigger.heats import Chunk, Map, Tensors
from detrigger.save import write_atomically


def threads(jobs: int) -> Map:
    """A map over `jobs` threads, one core each: convolutions release the interpreter lock.

    The result does not depend on `jobs`, since chunks do not.
    """

    def run(function: Callable[[Chunk], Tensors], chunks: Iterable[Chunk], /) -> Iterator[Tensors]:
        cores = torch.get_num_threads()
        torch.set_num_threads(max(1, cores // jobs))
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(function, chunk) for chunk in chunks]
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()
                torch.set_num_threads(cores)

    return run


def remembered(run: Map, folder: Path, inputs: dict[str, object]) -> Map:
    """A map that keeps each chunk's result in `folder`, under the hash of all that it depends on.

    `inputs` is that (model, data, options, seed, version) but for the chunk itself. An interrupted run, begun
    again, takes what is there; a file that cannot be read is made anew.
    """

    def cached(function: Callable[[Chunk], Tensors], chunks: Iterable[Chunk], /) -> Iterable[Tensors]:
        def one(chunk: Chunk) -> Tensors:
            key = json.dumps({**inputs, "chunk": chunk}, sort_keys=True, default=str)
            path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
            if path.exists():
                try:
                    return load_file(path)
                except (safetensors.SafetensorError, OSError):
                    pass  # half-written by a crash, or damaged: made anew below
            result = function(chunk)
            write_atomically(path, save(result))
            return result

        return run(one, chunks)

    return cached
