"""`detrigger bench`"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter, Token
from rich.text import Text

from detrigger.bench.fit import case, coefficients
from detrigger.bench.fit import fit as fit_terms
from detrigger.bench.fit_table import fit_tables
from detrigger.bench.paper import Until, bench_paper
from detrigger.bench.paper_page import table as paper_table
from detrigger.bench.paper_plan import read_plans
from detrigger.bench.plan import read_plan
from detrigger.bench.poison_rate import bench_poison_rate, read_rate_plan
from detrigger.bench.poison_rate_page import notes
from detrigger.bench.poison_rate_page import table as rate_table
from detrigger.bench.processes import processes
from detrigger.bench.speed import Order, PeerOrder, bench_speed
from detrigger.bench.speed_table import speed_tables
from detrigger.bench.tables import tables
from detrigger.bench.zoo import ZooConfig, bench_zoo
from detrigger.bench.zoo_build import build_zoo
from detrigger.cli.console import progress, show
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_folder
from detrigger.coefficients import fitted
from detrigger.errors import UsageError
from detrigger.save import write_atomically
from detrigger.scan import ScanConfig

ALL = ZooConfig()
"""Every model, no repair."""


def _names(_kind: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """`--only mnist,lfw` as well as `--only mnist lfw`."""
    return tuple(part.strip() for token in tokens for part in token.value.split(",") if part.strip())


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


@bench.command
def speed(
    model: Path,
    /,
    *,
    inputs: InputFlags,
    config: Annotated[ScanConfig, Parameter(name="*")] = ScanConfig(),
    peer: Annotated[tuple[str, ...], Parameter(negative_iterable="", consume_multiple=False)] = (),
) -> int:
    """Say how fast scans of a model are, where the time goes, and what could be better.

    Scans it four times and more, each time in a process of its own with one thread per job.

    Parameters
    ----------
    model
        As for `scan`.
    peer
        Adapter of another detector, ADAPTER.py or ADAPTER.py=CHECKOUT, to be run on the same model; repeat
        for more. Adapters are run: benchmarks/peers has some.
    """
    opened = functools.partial(read_inputs, model, inputs)
    opened()  # so that bad input is refused here, and not in another process
    others = [
        PeerOrder(opened, Path(path), checkout) for path, _, checkout in (p.partition("=") for p in peer)
    ]
    for other in others:
        if not other.adapter.is_file():
            raise UsageError(f"--peer {other.adapter} is not there; give ADAPTER.py or ADAPTER.py=CHECKOUT")
    with progress("measuring") as callback:
        found = bench_speed(
            Order(opened, config, seed=inputs.seed), others, run=processes(1, fresh=True), said=callback
        )
    for table in speed_tables(found):
        show(table)
    return 0


@bench.command(name="poison-rate")
def poison_rate(plan: Path, *, out: Path, data_root: Path = Path(), jobs: int = 1) -> int:
    """Train models with more and more poisoned images and tell what it does to accuracy and attack success.

    Goes on where it was interrupted.

    Parameters
    ----------
    plan
        TOML: rates, [attack] and, per data set, [data], [network], [train]; see benchmarks/poison_rate.toml.
    out
        Folder for summary.json, index.html, plot.svg and cards/.
    data_root
        Folder that the plan's data paths start from.
    jobs
        Processes; each uses one core.
    """
    wanted = read_rate_plan(plan)
    check_folder(out)
    began = time.perf_counter()
    with progress("training models") as callback:
        cells, found = bench_poison_rate(wanted, data_root, out, run=processes(jobs), said=callback)
    show(rate_table(found))
    for line in notes(found, wanted.seeds):
        show(Text(line))
    spent = sum(cell.cpu_seconds for cell in cells)
    show(Text(f"{len(cells)} models, {spent:.0f} s of CPU; {time.perf_counter() - began:.0f} s now"))
    return 0


@bench.command
def paper(
    *,
    data_root: Path | None = None,
    only: Annotated[tuple[str, ...], Parameter(converter=_names, negative_iterable="")] = (),
    seeds: int = 3,
    until: Until = "open",
    out: Path = Path("paper"),
    specs: Path = Path("benchmarks/paper"),
    jobs: int = 1,
) -> int:
    """Repeat the paper's experiment (Menisov 2022) and show its tables beside what is measured.

    Goes on where it was interrupted.

    Parameters
    ----------
    data_root
        Folder that the specs' data paths start from; without it, MNIST and LFW are downloaded.
    only
        Data sets, such as mnist,lfw,aid,dota; by default all.
    seeds
        At most, for every spec.
    until
        Stop after models, scans or repairs; by default the open points are the last.
    out
        Folder for index.html, cells/, cards/, weights/ and pictures/.
    specs
        Folder with one TOML file for each network and data set, as the project has it.
    jobs
        Processes; each uses one core.
    """
    plans = read_plans(specs, only)
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}, wanted 1 or more")
    check_folder(out)
    began = time.perf_counter()
    with progress("the paper's experiment") as callback:
        results = bench_paper(
            plans,
            data_root,
            out,
            run=processes(jobs),
            seeds=seeds,
            until=until,
            said=callback,
        )
    show(paper_table(results))
    show(Text(f"{out / 'index.html'}: {len(results)} specs; {time.perf_counter() - began:.0f} s now"))
    return 0


@bench.command
def fit(cards: tuple[Path, ...], /, *, out: Path) -> int:
    """Fit what the verdict knows of clean models, and say how good that is on models it was not fitted on.

    Weak models (whose attack hardly works) count neither in the calibration nor in the figures.

    Parameters
    ----------
    cards
        Folders `cards` that `bench zoo` wrote.
    out
        The terms, in the form of coefficients.json.
    """
    told = [
        msgspec.json.decode(path.read_bytes()) for folder in cards for path in sorted(folder.glob("*.json"))
    ]
    usable = [card for card in told if card["scan"]["classes"]]
    if len({card["truth"]["backdoored"] for card in usable}) < 2:
        raise UsageError(
            f"{len(usable)} usable cards in {', '.join(map(str, cards))}; wanted clean and backdoored"
        )
    known = fitted()
    for table in fit_tables(usable, known):
        show(table)
        show(Text())
    cases = [case(card, known) for card in usable]
    names = ", ".join(sorted({c.dataset for c in cases}))
    stored = coefficients(fit_terms(cases, known.control), cases, known, f"bench zoo cards over {names}")
    write_atomically(out, msgspec.json.format(msgspec.json.encode(stored), indent=2) + b"\n")
    return 0
