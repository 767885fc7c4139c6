"""`detrigger scan --engine ray` on a cluster of three machines beside the same scan without Ray.

The machines are processes on this one (`ray.cluster_utils`). A third scan loses a machine half way. Prints
what RESULT.md quotes; exit code 1 if any report or trigger differs but for what it cost.
Run: python benchmarks/ray/command.py. A busy machine may need RAY_agent_register_timeout_ms=300000
RAY_raylet_start_wait_time_s=300, for Ray to start at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from lost_machine import MACHINES, MEMORY
from ray.cluster_utils import Cluster

from detrigger.cli.results import KEPT

DEMO = Path(str(files("detrigger"))) / "demo"
AFTER = 16
"""Results that are kept when a machine is lost: the pairs of classes are being searched then."""


def command(out: Path, *more: str) -> list[str]:
    words = [str(DEMO / "clean.safetensors"), "--data", str(DEMO / "mnist.npz"), "--out", str(out)]
    words += ["--arch", f"{DEMO / 'network.py'}:make", "--per-class", "20", "--budget", "standard"]
    return [sys.executable, "-m", "detrigger", "scan", *words, "--precision", "fp32", *more]


def outcome(folder: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Report and triggers of a scan, without what it cost."""
    report = json.loads((folder / "report.json").read_bytes())
    del report["cost"]
    return report, [(folder / found["trigger"]).read_bytes() for found in report["backdoors"]]


def scanned(out: Path, *more: str, machines: Cluster | None = None) -> tuple[int, float]:
    """Exit code and seconds of a scan; one of the machines is killed while it is at work."""
    began = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    with subprocess.Popen(command(out, *more), **quiet) as running:
        while machines and running.poll() is None:
            if len(list((out / KEPT).glob("*.safetensors"))) >= AFTER:
                machines.remove_node(machines.worker_nodes.copy().pop(), allow_graceful=False)
                machines = None
            time.sleep(0.05)
        return running.wait(), time.perf_counter() - began


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        codes, seconds = {}, {}
        codes["serial"], seconds["serial"] = scanned(Path(place, "serial"))
        machines = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY}
        )
        for _ in range(MACHINES - 1):
            machines.add_node(num_cpus=1, object_store_memory=MEMORY)
        machines.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = machines.address
        for name, lost in (("cluster", None), ("cluster that loses a machine", machines)):
            codes[name], seconds[name] = scanned(Path(place, name), "--engine", "ray", machines=lost)
        ray.init(log_to_driver=False)
        left = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
        machines.shutdown()
        found = {name: outcome(Path(place, name)) for name in codes}
        same = {name: found[name] == found["serial"] for name in codes}
        told = {
            "exit codes": codes,
            "verdict": found["serial"][0]["verdict"],
            "report and triggers as serial, but for the cost": same,
            "machines left": left,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "ray": ray.__version__,
        }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    return int(not all(same.values()) or len(set(codes.values())) > 1 or left != MACHINES - 1)


if __name__ == "__main__":
    sys.exit(main())
