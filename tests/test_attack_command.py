"""`detrigger attack`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

import detrigger
from detrigger import measure
from detrigger.cli import run
from detrigger.load import load_classifier, load_images
from detrigger.load.trigger_file import load_trigger

DEMO = Path(detrigger.__path__[0]) / "demo"
ARGUMENTS = {"width": 4, "size": 28}
RECIPE = """
seed = 1
network = { arch = "ARCH", arguments = { width = 4, size = 28 } }
train = { epochs = 2, batch = 20, rate = 0.02 }
[attack]
"""
TWO = """
name = "several"
poison_rate = 0.1
backdoors = [{ target = 3 }, { target = 5, patch = { place = "upper left" } }]
"""
TROJAN = """
name = "trojan-nn"
target = 3
steps = 3
"""
CASES = [
    ('name = "badnets"\ntarget = 3', [".trigger.safetensors"], [{"family": "patch", "target": "3"}]),
    (
        TWO,
        [".trigger_0.safetensors", ".trigger_1.safetensors"],
        [{"family": "patch", "target": "3"}, {"family": "patch", "target": "5"}],
    ),
    ('name = "wanet"\ntarget = 3', [".trigger.safetensors"], [{"family": "warp", "target": "3"}]),
    ('name = "sig"\ntarget = 3', [".trigger.safetensors"], [{"family": "additive", "target": "3"}]),
    ('name = "colour-filter"\ntarget = 3', [".trigger.safetensors"], [{"family": "colour", "target": "3"}]),
    ('name = "all-to-all"', [".trigger.safetensors"], [{"family": "patch"}]),
    ('name = "bpp"\ntarget = 3', [], []),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stored = numpy.load(DEMO / "mnist.npz")
    for name, start in (("train", 0), ("test", 10)):
        rows = [i for i in range(2000) if start <= i % 200 < start + 10]
        numpy.savez(tmp_path / f"{name}.npz", x=stored["x"][rows], y=stored["y"][rows])
    return tmp_path


def attack(folder: Path, table: str, *more: str, out: str = "model.safetensors") -> int:
    text = RECIPE.replace("ARCH", f"{DEMO / 'network.py'}:make")
    (folder / "recipe.toml").write_text(text.replace("[attack]\n", f"[attack]\n{table}\n" if table else ""))
    data = ["--data", str(folder / "train.npz"), "--test", str(folder / "test.npz")]
    return run(["attack", str(folder / "recipe.toml"), *data, "--out", str(folder / out), *more])


@pytest.mark.parametrize(("table", "endings", "metadata"), CASES)
def test_an_attack_writes_the_model_its_record_and_its_triggers(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    endings: list[str],
    metadata: list[dict[str, str]],
) -> None:
    assert attack(folder, table) == 0
    record = json.loads((folder / "model.safetensors.json").read_text())
    assert json.loads(capsys.readouterr().out) == record
    files = {path.name for path in folder.glob("model*")}
    wanted_endings = ("", ".json", *endings)
    assert files == {f"model.safetensors{ending}" for ending in wanted_endings}
    for ending, wanted in zip(endings, metadata, strict=True):
        assert load_trigger(folder / f"model.safetensors{ending}")[1] == wanted
    images = load_images(folder / "test.npz", size=None, channels=None, limit_per_class=None, seed=0)
    arch = f"{DEMO / 'network.py'}:make"
    model = load_classifier(
        folder / "model.safetensors", arch, ARGUMENTS, shape=images.shape, names=images.names
    )
    assert record["clean_accuracy"] == pytest.approx(measure.accuracy(model, images))
    assert len(record["backdoors"]) == max(1, len(endings)) and record["test_images"] == 100
    for found, about in zip(record["backdoors"], metadata, strict=False):
        _check(found, about)


def _check(found: dict[str, Any], about: dict[str, str]) -> None:
    assert found["target"] == (int(about["target"]) if "target" in about else None)
    assert found["images"] == (90 if "target" in about else 100)
    rates = [found[key] for key in ("attack_success_rate", "robust_accuracy", "rate_without_trigger")]
    assert all(0 <= rate <= 1 for rate in rates)


def test_a_clean_model_is_made_and_serves_as_helper(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(folder, "", out="clean.safetensors") == 0
    record = json.loads((folder / "clean.safetensors.json").read_text())
    assert record["backdoors"] == [] and record["poisoned_images"] == 0
    assert not list(folder.glob("clean*trigger*"))
    capsys.readouterr()
    assert attack(folder, TROJAN) == 4
    assert "needs a clean model of the same data; give one as --helper" in capsys.readouterr().err
    assert not (folder / "model.safetensors").exists()
    assert attack(folder, TROJAN, "--helper", str(folder / "clean.safetensors")) == 0
    assert (folder / "model.safetensors.trigger.safetensors").exists()


def test_the_helper_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(folder, "", out="clean.safetensors") == 0
    helper = folder / "clean.safetensors"
    before = helper.read_bytes()
    assert attack(folder, TROJAN, "--helper", str(helper), out="clean.safetensors") == 2
    assert "is read here" in capsys.readouterr().err and helper.read_bytes() == before
