"""The bench over a zoo of networks whose answer is known, planted by hand."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from planted import planted

import detrigger.bench
from detrigger import measure
from detrigger.bench import sealed as sealing
from detrigger.bench import summary as summaries
from detrigger.bench import truth
from detrigger.bench.figures import area_under_curve
from detrigger.bench.page import Shown, page
from detrigger.bench.relearn import RelearnConfig, relearned
from detrigger.bench.sealed import Sealed, read_card, verdict
from detrigger.bench.summary import Figures, summarise
from detrigger.bench.truth import Row
from detrigger.bench.zoo import ZooConfig, bench_zoo, chosen
from detrigger.cli import run
from detrigger.errors import DataError, UsageError
from detrigger.save import save_classifier, save_trigger
from detrigger.scan import ScanConfig

CONFIG = ScanConfig(budget="quick", precision="fp32")
ARCH = """
import network

def make(arch, in_ch, classes, size, backdoors):
    return network.make(classes=classes, channels=in_ch, size=size, backdoors=backdoors)
"""
MODELS: dict[str, tuple[tuple[int, ...], int]] = {"clean": ((), 1), "two": ((2,), 0), "four": ((4,), 3)}
"""Targets and seed of each."""


def record(name: str) -> dict[str, Any]:
    targets, _ = MODELS[name]
    entries = [{"kind": "patch", "target": t, "file": f"triggers/{name}.safetensors"} for t in targets]
    made: dict[str, Any] = {
        "id": name,
        "dataset": name,
        "arch": "by-hand",
        "arch_kwargs": {"backdoors": len(targets)},
        "input_shape": [1, 12, 12],
        "num_classes": 6,
        "weights": f"weights/{name}.safetensors",
        "backdoored": bool(targets),
        "triggers": entries,
    }
    if targets:
        made |= {"attack": "badnets", "targets": list(targets), "sources": None, "weak": name == "four"}
    return made


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name in ("weights", "triggers", "data_slices"):
        (folder / name).mkdir()
    shutil.copy(Path(__file__).with_name("planted.py"), folder / "network.py")
    shutil.copy(Path(detrigger.bench.__file__).with_name("stamps.py"), folder / "triggers.py")
    (folder / "arch.py").write_text(ARCH)
    for name, (targets, seed) in MODELS.items():
        made = planted(targets=targets, seed=seed)
        save_classifier(made.model, folder / "weights" / f"{name}.safetensors")
        for trigger, target in zip(made.triggers, targets, strict=True):
            path = folder / "triggers" / f"{name}.safetensors"
            save_trigger(trigger, path, target=target, family="patch")
        x, y = (made.images.x * 255).round().byte().numpy()[:, 0], made.images.y.numpy()
        arrays = {"x": x[::2], "y": y[::2], "x_eval": x[1::2], "y_eval": y[1::2]}
        np.savez(folder / "data_slices" / f"{name}.npz", **arrays)
    (folder / "zoo.json").write_text(json.dumps([record(name) for name in MODELS]))
    return folder


@pytest.fixture(scope="module")
def done(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], summaries.Summary]:
    out = tmp_path_factory.mktemp("out")
    rows, summary = bench_zoo(zoo, out, ZooConfig(repair=True, relearn=True), CONFIG, run=map)
    return out, rows, summary


def test_nothing_but_files_and_options_reaches_the_scanner() -> None:
    assert list(inspect.signature(verdict).parameters) == ["sealed"]
    allowed = "weights architecture arguments data per_class card config repair seed"
    assert {f.name for f in dataclasses.fields(Sealed)} == set(allowed.split())
    assert get_type_hints(Sealed)["weights"] is Path
    lines = inspect.getsource(sealing)
    assert not any(word in lines for word in ("bench.truth", "bench.make", "zoo.json", "detrigger.attack"))


def test_a_sealed_model_says_nothing_of_its_truth(zoo: Path, tmp_path: Path) -> None:
    one = truth.sealed(record("two") | {"secret": "truth-of-it"}, zoo, tmp_path, CONFIG)
    other = truth.sealed(
        record("two") | {"targets": [5], "attack": "sig", "backdoored": False}, zoo, tmp_path, CONFIG
    )
    assert one == other
    assert "truth-of-it" not in repr(one)


def test_the_scanner_works_where_the_truth_is_not_there(zoo: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(zoo, bare)
    (bare / "zoo.json").unlink()
    (bare / "triggers.py").unlink()
    shutil.rmtree(bare / "triggers")
    with np.load(zoo / "data_slices" / "two.npz") as file:
        np.savez(bare / "data_slices" / "two.npz", x=file["x"], y=file["y"])
    card = read_card(verdict(truth.sealed(record("two"), bare, tmp_path, CONFIG)))
    assert (card.scan.verdict, [b.target for b in card.scan.backdoors]) == ("backdoored", [2])
    assert card.peak_memory > 2**20


def test_truth_is_joined_after_the_verdicts(done: tuple[Path, list[Row], summaries.Summary]) -> None:
    _, rows, summary = done
    by_id = {row.id: row for row in rows}
    assert [row.id for row in rows] == list(MODELS)
    assert (by_id["clean"].backdoored, by_id["clean"].attack, by_id["clean"].found) == (False, "clean", ())
    assert (by_id["two"].verdict, by_id["two"].found, by_id["two"].targets) == ("backdoored", (2,), (2,))
    assert by_id["two"].target_named is True
    assert by_id["two"].sources_named is True
    assert by_id["four"].weak
    assert (summary.everything.models, summary.ordinary.models, summary.weak.models) == (3, 2, 2)
    assert summary.everything.area == 1.0
    assert by_id["two"].image_passes > 0
    assert by_id["two"].cpu_seconds > 0


def test_repair_is_measured_with_the_planted_trigger_on_other_images(
    zoo: Path, done: tuple[Path, list[Row], summaries.Summary]
) -> None:
    out, rows, summary = done
    repair = next(row for row in rows if row.id == "two").repair
    assert repair is not None
    made = planted(targets=(2,), seed=0)
    with np.load(zoo / "data_slices" / "two.npz") as file:
        x, y = torch.from_numpy(file["x_eval"])[:, None] / 255, torch.from_numpy(file["y_eval"])
    stamped = made.triggers[0](x[y != 2])[0]
    given = made.model(stamped).argmax(1)
    assert repair.success_before == pytest.approx((given == 2).float().mean().item())
    assert repair.robust_before == pytest.approx((given == y[y != 2]).float().mean().item())
    assert repair.success_after < 0.1 < repair.success_before
    assert repair.robust_after > repair.robust_before
    assert 0 <= repair.relearned_after <= 1 and repair.relearned_before > 0.5 and repair.cpu_seconds > 0
    assert (out / "cards" / "two" / "repaired.safetensors").exists()
    assert summary.repairs is not None
    assert summary.repairs.repaired == sum(row.repair is not None for row in rows)


def test_cards_summary_and_page_are_written(done: tuple[Path, list[Row], summaries.Summary]) -> None:
    out, rows, _ = done
    card = json.loads((out / "cards" / "two.json").read_text())
    assert card["scan"]["verdict"] == card["judged"]["verdict"] == "backdoored"
    assert card["truth"]["targets"] == [2]
    told = json.loads((out / "summary.json").read_text())
    assert [model["id"] for model in told["models"]] == [row.id for row in rows]
    assert told["figures"]["everything"]["area"] == 1.0
    html = (out / "index.html").read_text()
    assert all(f"{row.id}<br>" in html for row in rows)
    assert html.count("data:image/png") == 2 * 3  # two backdoored: planted, on an image, found
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_finished_card_is_kept_and_one_of_other_options_is_not(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ZooConfig(where='id == "clean"')
    bench_zoo(zoo, tmp_path, only, CONFIG, run=map)
    scans: list[int] = []
    real = sealing.scan

    def counted(*args: Any, seed: int) -> Any:
        scans.append(seed)
        return real(*args, seed=seed)

    monkeypatch.setattr(sealing, "scan", counted)
    bench_zoo(zoo, tmp_path, only, CONFIG, run=map)
    assert scans == []
    bench_zoo(zoo, tmp_path, dataclasses.replace(only, seed=1), CONFIG, run=map)
    bench_zoo(zoo, tmp_path, dataclasses.replace(only, seed=1, resume=False), CONFIG, run=map)
    assert scans == [1, 1]


def test_a_card_of_other_weights_is_not_kept(zoo: Path, tmp_path: Path) -> None:
    sealed = truth.sealed(record("clean"), zoo, tmp_path, CONFIG)
    verdict(sealed)
    again = dataclasses.replace(sealed, weights=tmp_path / "other.safetensors")
    save_classifier(planted(targets=(), seed=7).model, again.weights)
    first = read_card(sealed.card).scan.model.sha256
    assert read_card(verdict(again)).scan.model.sha256 != first


def test_the_judge_has_other_images_than_the_scanner(zoo: Path) -> None:
    images = truth.judge_images(zoo, record("two"), tuple("abcdef"))
    with np.load(zoo / "data_slices" / "two.npz") as file:
        assert (images.x * 255).round().byte()[:, 0].equal(torch.from_numpy(file["x_eval"]))
        assert not np.array_equal(file["x"], file["x_eval"])


def test_no_zoo_and_no_model_are_said(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no zoo\.json"):
        chosen(tmp_path, "")
    with pytest.raises(UsageError, match="no model"):
        chosen(zoo, 'attack == "sig"')
    (tmp_path / "zoo.json").write_text("{}")
    with pytest.raises(DataError, match="build the zoo again"):
        chosen(tmp_path, "")


def test_the_command_prints_a_table(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrigger.cli.bench.processes", lambda jobs, fresh: map)
    words = [
        "bench",
        "zoo",
        str(zoo),
        "--out",
        str(tmp_path),
        "--where",
        'id == "two"',
        "--precision",
        "fp32",
    ]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "backdoored" in out
    assert "image passes" in out
    assert run([*words[:-3], "id ==", *words[-2:]]) == 4


def row(name: str, attack: str, verdict: str, probability: float, **more: Any) -> Row:
    made: dict[str, Any] = {
        "dataset": "d",
        "arch": "a",
        "backdoored": attack != "clean",
        "weak": False,
        "found": (),
        "targets": (),
        "target_named": None,
        "sources_named": None,
        "controlled": False,
        "image_passes": 10,
        "seconds": 1.0,
        "cpu_seconds": 2.0,
        "peak_memory": 5,
    }
    return Row(id=name, attack=attack, verdict=verdict, probability=probability, **(made | more))


ROWS = [
    row("1", "clean", "clean", 0.1, dataset="e"),
    row("2", "clean", "backdoored", 0.8),
    row(
        "3",
        "sig",
        "backdoored",
        0.9,
        target_named=True,
        sources_named=False,
        image_passes=30,
        controlled=True,
    ),
    row("4", "sig", "inconclusive", 0.5, peak_memory=9),
    row("7", "clean", "inconclusive", 0.4),
    row("5", "wanet", "backdoored", 0.7, target_named=False),
    row("6", "wanet", "clean", 0.2, weak=True),
]


def test_figures_count_what_they_say() -> None:
    summary = summarise(ROWS)
    one: Figures = summary.ordinary
    assert (one.models, one.backdoored, one.false_alarms, one.inconclusive) == (6, 3, 1 / 3, 1 / 3)
    assert (one.detected, one.target_named, one.sources_named) == (pytest.approx(2 / 3), 0.5, 0.0)
    assert one.area == area_under_curve([0.9, 0.5, 0.7], [0.1, 0.8, 0.4])
    assert (one.image_passes, one.peak_memory, one.controlled) == (10, 9, 1 / 6)
    assert summary.everything.detected == 0.5
    assert summary.weak.detected == 0.0
    assert set(summary.by_attack) == {"sig", "wanet"}
    assert (summary.by_attack["wanet"].models, summary.by_attack["wanet"].backdoored) == (4, 1)
    assert {name: f.models for name, f in summary.by_dataset.items()} == {"d": 5, "e": 1}
    assert summary.repairs is None


def test_the_page_shows_charts_and_escapes_names() -> None:
    html = page("<b>zoo</b>", ROWS, summarise(ROWS), [Shown()] * len(ROWS))
    assert "<b>zoo" not in html
    assert html.count("<circle") == sum(b.count > 0 for b in summarise(ROWS).reliability)
    assert html.count('<line class="accuracy"') == 2 * len(summarise(ROWS).roc) - 1


def test_a_model_takes_a_backdoor_up_from_a_handful_of_poisoned_images_and_is_itself_left_alone() -> None:
    made = planted(targets=())
    trigger = planted().triggers[0]
    before = {name: value.clone() for name, value in made.model.net.state_dict().items()}
    victims = made.images.x[made.images.y != 2][::10]
    labels = torch.full((len(victims),), 2)
    config = RelearnConfig(epochs=40, learning_rate=0.005)
    taught = relearned(made.model, made.images, trigger(victims)[0], labels, config, seed=0)
    assert measure.success(made.model, made.images, trigger, 2) == 0
    assert measure.success(taught, made.images, trigger, 2) > 0.5
    assert all(torch.equal(value, before[n]) for n, value in made.model.net.state_dict().items())
