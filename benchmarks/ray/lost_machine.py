"""A search on a Ray cluster of three machines, one of which is killed half way, beside a serial one.

The machines are processes on this one (`ray.cluster_utils`). Prints what RESULT.md quotes; exit code 1 if
anything was lost, done twice, or differs. Run: python benchmarks/ray/lost_machine.py. A busy machine may need
RAY_agent_register_timeout_ms=300000 RAY_raylet_start_wait_time_s=300, for Ray to start at all.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import torch
from ray.cluster_utils import Cluster

from detrigger.budgets import BUDGETS
from detrigger.cluster import cluster
from detrigger.engine import remembered
from detrigger.heats import Chunk, InvertConfig, Map, Tensors, Tick, Work, serial
from detrigger.invert import Inversion, invert
from detrigger.load import load_classifier, load_images

MACHINES = 3
MEMORY = 80 << 20
"""Bytes of each machine's object store."""


def searched(map: Map) -> Inversion:
    """The standard race for patches over the ten classes of the demo's MNIST network, a class per chunk."""
    folder = Path(str(files("detrigger"))) / "demo"
    images = load_images(folder / "mnist.npz", limit_per_class=40)
    model = load_classifier(
        folder / "badnets.safetensors",
        f"{folder / 'network.py'}:make",
        shape=images.shape,
        names=images.names,
    )
    config = InvertConfig(stages=BUDGETS["standard"]["patch"], batch=8, precision="fp32")
    return invert(model, images, tuple(range(10)), "patch", config, seed=0, map=map)


def killing(run: Map, machines: Cluster, after: int, seen: Counter[Chunk]) -> Map:
    """The map, counting its results; after so many of them a machine is gone."""

    def watched(work: Work, chunks: Iterable[Chunk], tick: Tick, /) -> Iterator[tuple[Chunk, Tensors]]:
        for chunk, result in run(work, chunks, tick):
            seen[chunk] += 1
            if seen.total() == after:
                machines.remove_node(machines.worker_nodes.copy().pop(), allow_graceful=False)
            yield chunk, result

    return watched


def main() -> int:
    torch.set_num_threads(1)
    began = time.perf_counter()
    alone = searched(serial)
    times = {"serial": time.perf_counter() - began}
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY})
    for _ in range(MACHINES - 1):
        machines.add_node(num_cpus=1, object_store_memory=MEMORY)
    machines.wait_for_nodes()
    ray.init(address=machines.address, log_to_driver=False)
    seen: Counter[Chunk] = Counter()
    with tempfile.TemporaryDirectory() as folder, cluster() as run:
        before = len(ray.nodes())
        began = time.perf_counter()
        spread = searched(remembered(killing(run, machines, 5, seen), Path(folder), {}))
        times["cluster"] = time.perf_counter() - began
        kept = len(list(Path(folder).iterdir()))
        left = sum(node["Alive"] for node in ray.nodes())
    ray.shutdown()
    machines.shutdown()
    wanted = int(alone.heats.sum())
    same = all(
        torch.equal(alone.trigger.tensors()[name], spread.trigger.tensors()[name])
        for name in alone.trigger.tensors()
    )
    told = {
        "machines": before,
        "machines left": left,
        "units": wanted,
        "results": seen.total(),
        "results given twice": sum(count > 1 for count in seen.values()),
        "results kept": kept,
        "triggers equal to the last bit": same and torch.equal(alone.size, spread.size),
        "seconds": {name: round(value, 1) for name, value in times.items()},
        "ray": ray.__version__,
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    lost = (seen.total(), kept) != (wanted, wanted) or max(seen.values()) > 1 or left != MACHINES - 1
    return int(lost or not same)


if __name__ == "__main__":
    sys.exit(main())
