"""Building a zoo: data, plan, networks, records, resuming."""

from __future__ import annotations

import io
import json
import signal
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrigger.attack.methods import ATTACKS
from detrigger.bench import make as making
from detrigger.bench import networks, stamps
from detrigger.bench.make import Record, compared, make, prepared
from detrigger.bench.plan import ModelPlan, ZooPlan, read_plan, specification
from detrigger.bench.processes import processes
from detrigger.bench.sources import DataPlan, read, slice_file
from detrigger.bench.truth import zoo_triggers
from detrigger.bench.zoo_build import build_zoo, read_records
from detrigger.cli import run
from detrigger.errors import DataError, InputError, UsageError

NETWORK = 'dataset = "dots", arch = "cnn4", arguments = { width = 4 }'
BADNETS = '{ name = "badnets", target = 1, poison_rate = 0.2 }'
MOVING = '{ name = "random-location", target = 2, poison_rate = 0.2 }'
PLAN = f"""
model = [
  {{ id = "good", {NETWORK}, seed = 1 }},
  {{ id = "bad", {NETWORK}, seed = 2, attack = {BADNETS} }},
  {{ id = "moving", {NETWORK}, seed = 3, attack = {MOVING} }},
]
data = {{ dots = {{ path = "dots.npz", train = 60, scanner = 5, judge = 5 }} }}
train = {{ dots = {{ epochs = 6, batch = 16 }} }}
"""
CLASSES = 3


def pictures(per_class: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Grey squares: the class is the row in which a bright bar stands."""
    generator = np.random.default_rng(seed)
    y = np.arange(CLASSES).repeat(per_class)
    x = generator.integers(0, 80, (len(y), 28, 28), dtype=np.uint8)
    for image, c in zip(x, y, strict=True):
        image[4 + 8 * c : 8 + 8 * c, 6:20] = 200
    return x, y


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (x, y), (x_test, y_test) = pictures(60, 0), pictures(20, 1)
    np.savez(folder / "dots.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    (folder / "plan.toml").write_text(PLAN)
    return folder


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    out = tmp_path_factory.mktemp("zoo")
    return out, build_zoo(read_plan(root / "plan.toml"), root, out, run=map)


@pytest.mark.parametrize("arch", networks.NETWORKS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 128)])
def test_every_network_takes_images_of_every_size(arch: str, channels: int, size: int) -> None:
    net = networks.make(arch, channels, 7, size).eval()
    x = torch.rand(2, channels, size, size, requires_grad=True)
    out = net(x)
    assert out.shape == (2, 7)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    normed = any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert normed == (arch in ("cnn4", "resnet", "mobile"))


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of cnn4"):
        networks.make("cnn5", 1, 2, 28)
    with pytest.raises(ValueError, match="patches of 5"):
        networks.make("vit", 1, 2, 28, patch=5)


def test_scanner_judge_and_training_images_are_disjoint(root: Path) -> None:
    source = read(DataPlan("dots.npz", 40, scanner=12, judge=100), root)
    parts = (source.train, source.scanner, source.judge)
    assert [len(p.y) for p in parts] == [120, 6, 54]
    assert source.scanner.y.bincount().tolist() == [2, 2, 2]  # a class that has too few gives its share
    seen = [image.numpy().tobytes() for part in parts for image in part.x]
    assert len(set(seen)) == len(seen)
    with np.load(io.BytesIO(slice_file(source))) as file:
        assert (file["x"].shape, file["x"].dtype) == ((6, 28, 28, 1), np.uint8)
        assert set(file.files) == {"x", "y", "x_eval", "y_eval", "names"}
        assert (file["x_eval"][0, :, :, 0] == source.judge.x[0, 0].numpy()).all()


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_archive_is_divided_by_its_folders_or_else_by_the_seed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for part, first in (("train", 0), ("test", 100)):
            for i in range(8):
                content = encoded(first + i)
                info = tarfile.TarInfo(f"set/{part}/{'cat' if i % 2 else 'ant'}/{i}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    source = read(DataPlan("a.tar.gz", 10), tmp_path)
    assert source.train.names == ("ant", "cat")
    assert source.train.x[:, 0, 0, 0].max() < 100 <= source.test.x[:, 0, 0, 0].min()
    assert all(source.train.x[source.train.y == 1][:, 0, 0, 0] % 2 == 1)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        for i in range(16):
            packed.writestr(f"set/{'cat' if i % 2 else 'ant'}/{i}.png", encoded(i))
        packed.writestr("set/read me.txt", "no picture")
    source = read(DataPlan("b.zip", 5), tmp_path)
    assert (source.train.y.bincount().tolist(), source.test.y.bincount().tolist()) == ([5, 5], [3, 3])
    values = [*source.train.x[:, 0, 0, 0].tolist(), *source.test.x[:, 0, 0, 0].tolist()]
    assert sorted(values) == list(range(16))


def test_data_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    np.savez(tmp_path / "bad.npz", x=np.zeros(1))
    for name in ("bad.zip", "bad.npz", "none.npz"):
        with pytest.raises(DataError, match="cannot be used as training data"):
            read(DataPlan(name, 5), tmp_path)


def test_label_noise_squares_and_fewer_images_are_as_planned(root: Path) -> None:
    pixels = read(DataPlan("dots.npz", 60, scanner=5, judge=5), root).train
    plain = prepared(pixels, ModelPlan("a", "dots", "cnn4"))
    assert (plain.x * 255).round().byte().equal(pixels.x)
    noisy = prepared(pixels, ModelPlan("a", "dots", "cnn4", label_noise=0.5))
    assert 0.2 < (noisy.y != plain.y).float().mean() < 0.5  # a third of random labels are right
    squares = prepared(pixels, ModelPlan("a", "dots", "cnn4", squares=0.25))
    changed = (squares.x != plain.x).flatten(1)
    assert squares.y.equal(plain.y)
    assert 0.15 < changed.any(1).float().mean() < 0.35
    assert changed.sum(1).max() <= 16
    assert len(prepared(pixels, ModelPlan("a", "dots", "cnn4", per_class=4))) == 12


def test_the_plan_of_this_project_holds_sixty_models_with_every_attack() -> None:
    plan = read_plan(Path(__file__).parents[1] / "benchmarks" / "zoo" / "plan.toml")
    bad = [m for m in plan.model if m.attack is not None]
    assert (len(plan.model), len(plan.model) - len(bad)) == (60, 26)
    assert {m.attack["name"] for m in bad if m.attack} == set(ATTACKS)
    assert all(specification(m, plan).attack == (m.attack or {}).get("name") for m in plan.model)
    clean = {(m.dataset, m.arch) for m in plan.model if m.attack is None and m.note is None}
    assert {(m.dataset, m.arch) for m in bad} <= clean  # each has one to be compared with


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('arch = "cnn4"', 'arch = "cnn5"', "no network 'cnn5'"),
        ('dataset = "dots"', 'dataset = "dashes"', r"no \[data.dashes\]"),
        ("target = 1", "aim = 1", "model bad: .*no field 'aim'"),
        ('name = "badnets"', 'name = "bednets"', "model bad"),
        ("seed = 2", "sed = 2", "no field 'sed'"),
        ('id = "bad"', 'id = "good"', "two models 'good'"),
        ('id = "bad"', 'id = "../bad"', "letters"),
        ("epochs = 6", 'epochs = "six"', "epochs"),
        ("train = 60", "train = []", "plan.toml"),
    ],
)
def test_a_wrong_plan_is_refused(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(before, after))
    with pytest.raises(UsageError, match=message):
        read_plan(tmp_path / "plan.toml")


def test_an_attack_on_a_finished_model_needs_a_clean_one_of_the_same_network(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    trojan = PLAN.replace(BADNETS, '{ name = "trojan-nn", target = 1 }')
    path.write_text(trojan)
    assert len(read_plan(path).model) == 3
    path.write_text(trojan.replace("{ width = 4 }, seed = 1", "{ width = 8 }, seed = 1"))
    with pytest.raises(UsageError, match="model bad: trojan-nn trains a clean model on, and there is none"):
        read_plan(path)


def test_a_plan_that_is_not_there_or_not_toml_is_said(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("model = [")
    for name in ("plan.toml", "none.toml"):
        with pytest.raises(InputError, match="cannot be read as a plan"):
            read_plan(tmp_path / name)


def test_records_say_what_was_made_and_measured(built: tuple[Path, list[Record]]) -> None:
    out, records = built
    assert json.loads((out / "zoo.json").read_text()) == json.loads(json.dumps(records))
    good, bad, moving = records
    assert (good["backdoored"], good["triggers"], good["clean_accuracy"]) == (False, [], 1.0)
    assert (bad["attack"], bad["targets"], bad["sources"], bad["mode"]) == ("badnets", [1], None, "all2one")
    assert bad["poison_rate"] == pytest.approx(0.2)
    assert bad["clean_sibling"] == moving["clean_sibling"] == "good"
    assert bad["asr"] > 0.8
    assert bad["rate_without_trigger"] == [0.0]
    assert (bad["input_shape"], bad["num_classes"], bad["train_images"]) == ([1, 28, 28], 3, 180)
    assert bad["triggers"][0]["family"] == "patch"
    assert moving["triggers"][0]["file"] is None
    assert good["recipe"]["network"] == {"arch": "cnn4", "arguments": {"width": 4}}


def test_the_judge_finds_the_recorded_figures_again(built: tuple[Path, list[Record]], root: Path) -> None:
    out, records = built
    triggers = zoo_triggers(out)
    test = read(DataPlan("dots.npz", 60, scanner=5, judge=5), root).test.images()
    for record in records[1:]:
        net = networks.load(record, out)
        mask, wanted = triggers.victims(record, test.y)
        with torch.no_grad():
            given = net(triggers.apply(record, test.x[mask])).argmax(1)
        assert (given == wanted[mask]).float().mean().item() == pytest.approx(record["asr"], abs=1e-4)


def test_victims_are_those_of_sources_or_all_for_all_to_all() -> None:
    y = torch.tensor([0, 1, 2, 3])
    record = {"num_classes": 4, "sources": [1, 2], "triggers": [{"target": 1}, {"target": None}]}
    mask, wanted = stamps.victims(record, y, 0)
    assert (mask.tolist(), wanted.tolist()) == ([False, False, True, False], [1, 1, 1, 1])
    mask, wanted = stamps.victims(record, y, 1)
    assert (mask.all(), wanted.tolist()) == (True, [1, 2, 3, 0])


def test_a_model_is_weak_by_success_or_by_accuracy() -> None:
    sibling = {"id": "good", "clean_accuracy": 0.95}
    assert not compared({"asr": 0.85, "clean_accuracy": 0.92}, sibling)["weak"]
    assert compared({"asr": 0.84, "clean_accuracy": 0.95}, sibling)["weak"]
    assert compared({"asr": 0.99, "clean_accuracy": 0.91}, sibling)["weak"]
    alone = compared({"asr": 0.99, "clean_accuracy": 0.5}, None)
    assert (alone["weak"], alone["clean_sibling"], alone["accuracy_drop"]) == (False, None, None)


def test_a_model_is_made_again_only_if_it_is_gone_or_its_recipe_differs(
    built: tuple[Path, list[Record]], root: Path
) -> None:
    out, records = built
    plan = read_plan(root / "plan.toml")
    made: list[str] = []

    def build(wanted: ZooPlan) -> list[Record]:
        made.clear()
        return build_zoo(wanted, root, out, run=map, made=lambda record: made.append(record["id"]))

    assert build(plan) == json.loads(json.dumps(records))
    assert made == []
    (out / "weights" / "moving.safetensors").unlink()
    again = build(plan)
    assert made == ["moving"]
    costs = ("train_seconds", "cpu_seconds")
    assert [{k: v for k, v in r.items() if k not in costs} for r in again] == [
        {k: v for k, v in r.items() if k not in costs} for r in json.loads(json.dumps(records))
    ]
    changed = PLAN.replace(BADNETS, BADNETS.replace("0.2", "0.3"))
    (root / "changed.toml").write_text(changed)
    build(read_plan(root / "changed.toml"))
    assert made == ["bad"]


def test_an_interrupted_build_keeps_what_was_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        making, "_attack_part", lambda order, attacked, images: interrupted() if attacked.planted else {}
    )
    with pytest.raises(KeyboardInterrupt):
        build_zoo(read_plan(root / "plan.toml"), root, tmp_path, run=map)
    assert [r["id"] for r in read_records(tmp_path)] == ["good"]
    assert not list(tmp_path.glob(".*part"))


def test_processes_give_every_result_and_the_first_error() -> None:
    run_two = processes(2)
    assert sorted(run_two(abs, [-3, 2, -1])) == [1, 2, 3]
    with pytest.raises(ValueError, match="invalid literal"):
        list(processes(1)(int, ["x"]))
    with pytest.raises(UsageError, match="--jobs is 0"):
        processes(0)


def test_a_process_that_is_killed_is_told_in_one_line() -> None:
    with pytest.raises(UsageError, match="was killed, perhaps for want of memory; what is finished is kept"):
        list(processes(1)(signal.raise_signal, [signal.SIGKILL]))


def test_the_command_builds_and_says_what_it_made(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrigger.cli.bench.processes", lambda jobs: map)
    monkeypatch.setattr("detrigger.bench.zoo_build.make", lambda order: make(order))
    words = ["bench", "zoo-build", str(root / "plan.toml"), "--data-root", str(root), "--out", str(tmp_path)]
    assert run(words) == 0
    assert "3 models, 1 clean, 2 backdoored" in " ".join(capsys.readouterr().out.split())
    assert run(["bench", "zoo-build", str(root / "none.toml"), "--out", str(tmp_path)]) == 2
