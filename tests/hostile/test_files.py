"""For each hostile file: nothing is executed, one clear line, the right exit code, little time and memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import call, environment, tree

from detrigger.errors import ModelError
from detrigger.load import load_classifier, read_tensors
from hostile import checkpoint
from hostile.files import CASES, COSTLY, works

Capture = pytest.CaptureFixture[str]
MEMORY = 1 << 30
SECONDS = 30
"""Of processor time, for all files together."""


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_told_and_not_executed(name: str, tmp_path: Path, capsys: Capture) -> None:
    case, marker = CASES[name], tmp_path / "marker"
    (folder := tmp_path / "in").mkdir()
    path = case.make(folder, marker)
    before = tree(tmp_path) if name != "a pipe" else {}
    said = call(capsys, ["inspect", str(path)])
    assert said.code == case.code
    assert " ".join(case.said.split()) in " ".join((said.out + said.err).split()), said
    if case.code == 2:
        assert said.out == "" and said.err.count("\n") == 1
    try:
        weights = read_tensors(path)
        assert case.loads and weights.tensors
    except ModelError as error:
        assert not case.loads and "\n" not in str(error) and str(path) in str(error)
    assert not marker.exists()
    assert name == "a pipe" or tree(tmp_path) == before


@pytest.mark.parametrize("name", ["a checkpoint with a payload", "the format before 1.6"])
def test_these_files_work(name: str, tmp_path: Path) -> None:
    works(CASES[name].make(tmp_path, tmp_path / "marker"))
    assert (tmp_path / "marker").exists()


def test_weights_of_a_program_that_writes_a_file_are_used_without_it(tmp_path: Path) -> None:
    path = CASES["TorchScript that writes a file"].make(tmp_path, tmp_path / "marker")
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "class Own(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.w = torch.nn.Parameter(torch.zeros(4))\n"
        "    def forward(self, x):\n"
        "        return x.mean((1, 2, 3))[:, None] * self.w\n"
    )
    model = load_classifier(path, f"{tmp_path / 'own.py'}:Own", shape=(3, 4, 4), names=tuple("0123"))
    torch.testing.assert_close(model(torch.ones(1, 3, 4, 4)), torch.arange(4.0)[None])
    assert not (tmp_path / "marker").exists()


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_all_of_them_together_cost_little_memory_and_time(tmp_path: Path) -> None:
    paths = []
    for number, case in enumerate([*CASES.values(), *COSTLY.values()]):
        (folder := tmp_path / str(number)).mkdir()
        paths.append(str(case.make(folder, tmp_path / "marker")))
    done = subprocess.run(
        [sys.executable, "-m", "detrigger", "inspect", "--format", "json", *paths],
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=limited,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert len(json.loads(done.stdout)) == len(paths) - 2 and done.stderr.count("\n") == 2
    assert not (tmp_path / "marker").exists()


def test_a_file_that_changes_while_it_is_read_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pth"
    torch.save({"0.weight": torch.zeros(2)}, path)

    def swapped(asked: Path) -> object:
        found = read_tensors(asked)
        checkpoint(asked, tmp_path / "marker")
        return found

    monkeypatch.setattr("detrigger.load.read_tensors", swapped)
    with pytest.raises(ModelError, match="changed while it was read"):
        load_classifier(path, "timm:resnet18", shape=(3, 4, 4), names=("a", "b"))


def test_a_dangerous_file_among_others_is_told_even_if_another_cannot_be_read(
    tmp_path: Path, capsys: Capture
) -> None:
    torch.save({"a": torch.zeros(2)}, good := tmp_path / "good.pth")
    bad = checkpoint(tmp_path / "bad.pth", tmp_path / "marker")
    missing = tmp_path / "missing\x1b[2J.pth"
    for files, code in (((good, missing, bad), 1), ((good, missing), 2), ((good, good), 0)):
        said = call(capsys, ["inspect", *map(str, files)])
        assert said.code == code and said.out.count("SAFE TO READ: ") == files.count(good)
        assert said.err.count("there is no file") == files.count(missing)
        assert all(c.isprintable() or c == "\n" for c in said.err)
    assert call(capsys, ["inspect"]).code == 4
