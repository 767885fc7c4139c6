"""`detrigger bench`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.text import Text

from detrigger.bench.plan import read_plan
from detrigger.bench.processes import processes
from detrigger.bench.tables import tables
from detrigger.bench.zoo import ZooConfig, bench_zoo
from detrigger.bench.zoo_build import build_zoo
from detrigger.cli.console import progress, show
from detrigger.cli.results import check_folder
from detrigger.scan import ScanConfig

ALL = ZooConfig()
"""Every model, no repair."""

bench = App(name="bench", help="Measure scanner and repair on models whose truth is known.")


@bench.command(name="zoo-build")
def zoo_build(plan: Path, *, out: Path, data_root: Path = Path(), jobs: int = 1) -> int:
    """Train a zoo of clean and backdoored models from a plan; goes on where it was interrupted.

    Parameters
    ----------
    plan
        TOML: [data.NAME], [train.NAME] and one [[model]] each; benchmarks/zoo/plan.toml is one.
    out
        Folder of the zoo.
    data_root
        Folder that the plan's data paths start from.
    jobs
        Processes; each uses one core.
    """
    wanted = read_plan(plan)
    check_folder(out)
    with progress("training models") as callback:
        began = time.perf_counter()
        done: list[str] = []

        def made(record: dict[str, object]) -> None:
            done.append(str(record["id"]))
            callback(len(done), len(wanted.model))

        records = build_zoo(wanted, data_root, out, run=processes(jobs), made=made)
    weak = sum(bool(record.get("weak")) for record in records)
    backdoored = sum(bool(record["backdoored"]) for record in records)
    line = (
        f"{out / 'zoo.json'}: {len(records)} models, {len(records) - backdoored} clean, {backdoored} "
        f"backdoored ({weak} weak); {len(done)} made now, in {time.perf_counter() - began:.0f} s"
    )
    show(Text(line))
    return 0


@bench.command
def zoo(
    folder: Path,
    *,
    out: Path,
    config: Annotated[ZooConfig, Parameter(name="*")] = ALL,
    scan_config: Annotated[ScanConfig, Parameter(name="*")] = ScanConfig(),
    jobs: int = 1,
) -> int:
    """Scan every model of a zoo, then look up the truth, and report how good the verdicts were.

    Parameters
    ----------
    folder
        Of the zoo: zoo.json, arch.py, triggers.py, weights/, data_slices/. Its Python files are run.
    out
        Folder for summary.json, index.html and cards/.
    jobs
        Processes, each of one thread and for one model.
    """
    check_folder(out)
    with progress("scanning models") as callback:
        rows, summary = bench_zoo(
            folder, out, config, scan_config, run=processes(jobs, fresh=True), said=callback
        )
    for table in tables(rows, summary):
        show(table)
    return 0
