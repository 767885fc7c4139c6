"""The speed bench: clocks and counters against work whose size is known."""

from __future__ import annotations

import copy
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Files, call, refused, written
from planted import planted
from rich.console import Console
from torch import Tensor, nn

import detrigger.cli.bench
from detrigger import measure
from detrigger.bench import clock as clocks
from detrigger.bench.clock import Way, clocked, ways
from detrigger.bench.speed import (
    Operator,
    Order,
    PeerOrder,
    Speed,
    Timed,
    bench_speed,
    exponent,
    passes,
    timed,
    wide,
)
from detrigger.bench.speed_table import speed_tables
from detrigger.budgets import BUDGETS
from detrigger.heats import Stage
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.scan import ScanConfig

QUICK = ScanConfig(budget="quick", precision="fp32")
PEER = """
def peer(checkout):
    def ask(model, x, y, classes):
        model(x[:10])
        return dict(statistic=[1.0] * classes, verdict="clean", targets=[], score=0.0, rule=checkout)
    return ask
"""


@pytest.fixture
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "quick", {"patch": (Stage(3, 4), Stage(3, 4, 0.4))})


def opened(classes: int = 6) -> tuple[Classifier, Images]:
    made = planted(classes=classes, size=12, per_class=12)
    return made.model, made.images


def busy(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


class Slow(torch.autograd.Function):
    """Takes 0.04 s forward and 0.08 s backward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        busy(0.04)
        return x * 2

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        busy(0.08)
        return gradients[0] * 2


class SlowNet(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Slow.apply(x)  # type: ignore[no-untyped-call]
        return out


def test_the_clock_has_the_networks_time_forward_and_backward_and_no_other() -> None:
    net = SlowNet()
    with clocked(net) as clock:
        logits = copy.deepcopy(net)(torch.zeros(5, 3, requires_grad=True) + 1)
        busy(0.1)
        (logits * 3).sum().backward()
        with torch.no_grad():
            net(torch.zeros(4, 3))
    assert 0.12 <= clock.searching < 0.16
    assert 0.04 <= clock.looking < 0.06
    assert clock.images == 5


def test_every_way_through_a_network_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "LEAST", 0.0)
    monkeypatch.setattr(clocks, "BATCHES", (2, 4))
    model, images = opened()
    found = ways(model, images.x[:3])
    assert len({(way.batch, way.precision, way.layout) for way in found}) == len(found) == 8
    assert all(way.throughput > 0 for way in found)
    assert not any(p.requires_grad for p in model.net.parameters())


@pytest.mark.parametrize("classes", [10, 200])
def test_a_wide_network_knows_its_images(classes: int) -> None:
    model, images = wide(classes)
    assert len(model.classes) == classes and len(images) == 3 * classes
    assert measure.accuracy(model, images) > 0.99


def test_passes_grow_with_the_classes(little_work: None) -> None:
    few, many = (passes((classes, QUICK)) for classes in (10, 43))
    assert 0 < few < many


def test_the_exponent_of_growth_is_that_of_the_powers() -> None:
    assert exponent({10: 1000, 1000: 10_000}) == pytest.approx(0.5)
    assert math.isnan(exponent({10: 1000}))


def test_two_jobs_find_what_one_finds_and_a_scan_is_timed() -> None:
    one, two = (timed(Order(opened, QUICK, jobs=jobs)) for jobs in (1, 2))
    assert one.result == two.result and one.image_passes == two.image_passes
    assert 0.1 < one.in_model < 1 and math.isnan(two.in_model)
    assert one.verdict == "backdoored" and one.precision == "fp32"
    assert one.throughput > one.image_passes / one.cpu_seconds / 2
    assert timed(Order(partial(opened, 5), QUICK)).result != one.result


def test_the_bench_measures_all_of_it_and_runs_peers_on_the_same_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, little_work: None
) -> None:
    monkeypatch.setattr(clocks, "LEAST", 0.0)
    monkeypatch.setattr(clocks, "BATCHES", (4,))
    (tmp_path / "other.py").write_text(PEER)
    peer = PeerOrder(opened, tmp_path / "other.py", "rule of it")
    told: list[tuple[int, int]] = []
    found = bench_speed(
        Order(opened, QUICK), [peer], run=map, classes=(10,), said=lambda *done: told.append(done)
    )
    assert told[-1] == (13, 13) and len(told) == 13
    assert list(found.scans) == ["auto", "fp32", "bf16"]
    assert found.alone.result == found.two.result and found.alone.precision == found.two.precision
    assert found.scans["bf16"].precision == "bf16" and found.scans["fp32"].precision == "fp32"
    assert found.growth.keys() == {10} and found.operators[0].share >= found.operators[-1].share > 0
    asked = found.peers[0].asked
    assert (asked.searching, asked.answer.rule) == (10, "rule of it")


def speed(**more: Any) -> Speed:
    one = Timed("clean", "fp32", 20_000, 10.0, 8.0, 0.9, 5000.0, 2**29, "same")
    two = Timed("clean", "fp32", 20_000, 5.0, 8.0, math.nan, 4000.0, 2**29, "same")
    fields: dict[str, Any] = {
        "classes": 10,
        "images": 1000,
        "scans": {"auto": one, "fp32": one, "bf16": one},
        "alone": one,
        "two": two,
        "ways": (Way(32, "fp32", "contiguous", 5100.0), Way(256, "fp32", "contiguous", 3000.0)),
        "growth": {10: 1000, 1680: 20_000},
        "operators": (Operator("conv", 0.5, 100),),
        "peers": (),
    }
    return Speed(**fields | more)


def said(found: Speed) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        for table in speed_tables(found):
            console.print(table)
    return captured.get()


def test_the_table_says_which_aims_are_met() -> None:
    lines = {line.split("  ")[0]: line for line in said(speed()).splitlines()}
    for name in ("time in the network", "of the best throughput", "two jobs against one"):
        assert lines[name].endswith("yes"), name
    slow = Timed("clean", "fp32", 1, 9.0, 8.0, 0.1, 1.0, 1, "other")
    lines = {
        line.split("  ")[0]: line
        for line in said(speed(growth={10: 1000, 1680: 168_000}, two=slow)).splitlines()
    }
    for name in ("two jobs against one", "passes grow as classes to"):
        assert lines[name].endswith("no"), name


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return written(tmp_path)


def test_the_command_prints_the_figures_and_refuses_a_peer_that_is_not_there(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detrigger.cli.bench, "bench_speed", lambda *_, **__: speed())
    said = call(capsys, ["bench", "speed", *files.on(None, "--budget", "quick")])
    assert said.code == 0 and "two jobs against one" in said.out
    line = refused(capsys, ["bench", "speed", *files.on(None, "--peer", "missing.py=there")], 4)
    assert "missing.py" in line
