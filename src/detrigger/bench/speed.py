"""How fast a scan of a model is, where its time goes, and how that compares with others on the same model."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from detrigger import engine
from detrigger.bench.clock import Way, clocked, ways
from detrigger.bench.peer import Asked, adapter, asked
from detrigger.bench.processes import Run, peak_memory
from detrigger.heats import Map, serial
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.scan import Scan, ScanConfig, scan

Open = Callable[[], tuple[Classifier, Images]]
"""Reads the model and its images; picklable, as each measurement has a process of its own."""

Given = TypeVar("Given")
Got = TypeVar("Got")

CLASSES = (10, 43, 200, 1680)
"""Numbers of classes at which the growth of image passes is counted."""
TURNS = 3
"""Scans with one and with two jobs, by turns; other programs can only slow them, so the fastest counts."""


@dataclass(frozen=True)
class Order:
    """One scan to be measured."""

    open: Open
    config: ScanConfig
    jobs: int = 1
    seed: int = 0


@dataclass(frozen=True)
class PeerOrder:
    """One question to another detector."""

    open: Open
    adapter: Path
    checkout: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Timed:
    """One scan, in a process of its own, each of its threads on one core."""

    verdict: str
    precision: str
    """Of the search."""
    image_passes: int
    seconds: float
    cpu_seconds: float
    in_model: float
    """Share of the CPU time spent in the network's forward and backward; NaN for several jobs."""
    throughput: float
    """Images forward and backward per CPU second of the network alone."""
    peak_memory: int
    """Of the process, in bytes."""
    result: str
    """Hash of what was found per class: equal if the scans found the same."""


@dataclass(frozen=True)
class Operator:
    """What one kind of computation took of a scan."""

    name: str
    share: float
    """Of the CPU time, without what it calls."""
    calls: int


@dataclass(frozen=True)
class PeerTimed:
    """Another detector on the same model, in a process of its own."""

    name: str
    asked: Asked
    peak_memory: int


@dataclass(frozen=True)
class Speed:
    """All that was measured of one model."""

    classes: int
    images: int
    scans: dict[str, Timed]
    """By precision asked for: `auto` first, then `fp32` and `bf16`."""
    alone: Timed
    """With one job, in the precision that `auto` took; the fastest of several."""
    two: Timed
    """The same with two jobs."""
    ways: tuple[Way, ...]
    growth: dict[int, int]
    """Image passes by number of classes, on networks made for it."""
    operators: tuple[Operator, ...]
    """Where the time of a quick scan went, most first."""
    peers: tuple[PeerTimed, ...]

    @property
    def one(self) -> Timed:
        """The scan in the precision that is measured to be the faster one."""
        return self.scans["auto"]

    @property
    def best(self) -> Way:
        """The fastest way through the network."""
        return max(self.ways, key=lambda way: way.throughput)


def bench_speed(
    order: Order,
    peers: Sequence[PeerOrder],
    *,
    run: Run,
    classes: Sequence[int] = CLASSES,
    said: Callable[[int, int], None] = lambda _done, _all: None,
) -> Speed:
    """Measure one scan after another, then the peers; `said` is called with parts done and parts in all."""
    parts = 5 + 2 * TURNS + len(classes) + len(peers)
    done = 0

    def measured(work: Callable[[Given], Got], given: Given) -> Got:
        nonlocal done
        (result,) = run(work, [given])
        done += 1
        said(done, parts)
        return result

    def scanned(precision: Literal["auto", "fp32", "bf16"], jobs: int = 1) -> Timed:
        config = dataclasses.replace(order.config, precision=precision)
        return measured(timed, dataclasses.replace(order, config=config, jobs=jobs))

    model, images = order.open()
    scans = {precision: scanned(precision) for precision in ("auto", "fp32", "bf16")}
    taken: Literal["fp32", "bf16"] = "bf16" if scans["auto"].precision == "bf16" else "fp32"
    turns = [(scanned(taken), scanned(taken, jobs=2)) for _ in range(TURNS)]
    alone, two = (min(same, key=lambda one: one.seconds) for same in zip(*turns, strict=True))
    return Speed(
        classes=len(model.classes),
        images=len(images),
        scans=scans,
        alone=alone,
        two=two,
        ways=measured(best_ways, order),
        growth={count: measured(passes, (count, order.config)) for count in classes},
        operators=measured(operators, order),
        peers=tuple(measured(peer_timed, peer) for peer in peers),
    )


def timed(order: Order) -> Timed:
    """One scan and what it took."""
    model, images = order.open()
    model = dataclasses.replace(model)  # so that the hooks stay here
    run: Map = engine.threads(order.jobs) if order.jobs > 1 else serial
    began, cpu_began = time.perf_counter(), time.process_time()
    with clocked(model.net) as clock:
        found = scan(model, images, order.config, seed=order.seed, map=run)
    cpu = time.process_time() - cpu_began
    return Timed(
        verdict=found.finding.verdict,
        precision=found.cost.precision,
        image_passes=found.cost.image_passes,
        seconds=time.perf_counter() - began,
        cpu_seconds=cpu,
        in_model=(clock.searching + clock.looking) / cpu if order.jobs == 1 else math.nan,
        throughput=clock.images / clock.searching if clock.searching else math.nan,
        peak_memory=peak_memory(),
        result=_fingerprint(found),
    )


def best_ways(order: Order) -> tuple[Way, ...]:
    """Throughput of the order's model, however it is run."""
    model, images = order.open()
    return ways(model, images.x)


def passes(order: tuple[int, ScanConfig]) -> int:
    """Image passes of a scan of a network with so many classes."""
    classes, config = order
    model, images = wide(classes)
    return scan(model, images, config).cost.image_passes


def wide(classes: int) -> tuple[Classifier, Images]:
    """A linear network of 8×8 grey images with any number of classes, and three images of each.

    A class is a template of light and dark pixels, a little of which shows in its images.
    """
    generator = torch.Generator().manual_seed(classes)
    templates = torch.randint(0, 2, (classes, 64), generator=generator) * 2.0 - 1
    head = nn.Linear(64, classes)
    with torch.no_grad():
        head.weight.copy_(templates)
        head.bias.copy_(-templates.sum(1) / 2)  # so that mid-grey is no class's
    y = torch.arange(classes).repeat_interleave(3)
    noise = torch.rand(len(y), 64, generator=generator) - 0.5
    names = tuple(map(str, range(classes)))
    x = (0.5 + 0.3 * templates[y] + 0.2 * noise).reshape(-1, 1, 8, 8)
    return Classifier(nn.Sequential(nn.Flatten(), head), names, (1, 8, 8)), Images(x, y, names)


def exponent(growth: dict[int, int]) -> float:
    """The e of K^e by which image passes grow from the fewest to the most classes; NaN for one count."""
    few, many = min(growth), max(growth)
    return math.log(growth[many] / growth[few]) / math.log(many / few) if many > few else math.nan


def operators(order: Order, *, most: int = 12) -> tuple[Operator, ...]:
    """Where the CPU time of a quick scan goes, by torch's own profiler."""
    model, images = order.open()
    config = dataclasses.replace(order.config, budget="quick")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        scan(model, images, config, seed=order.seed)
    rows = profile.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    rows = sorted(rows, key=lambda row: row.self_cpu_time_total, reverse=True)[:most]
    return tuple(Operator(row.key, row.self_cpu_time_total / total, row.count) for row in rows)


def peer_timed(order: PeerOrder) -> PeerTimed:
    """What another detector says, and what that took."""
    model, images = order.open()
    found = asked(adapter(order.adapter, order.checkout), model, images, seed=order.seed)
    return PeerTimed(order.adapter.stem, found, peak_memory())


def _fingerprint(found: Scan) -> str:
    """Of verdict and evidence; two runs of the same scan have the same."""
    classes = [
        (one.index, one.size, one.success, sorted(one.evidence.items())) for one in found.finding.classes
    ]
    told = (found.finding.verdict, found.finding.probability, classes)
    return hashlib.sha256(repr(told).encode()).hexdigest()
