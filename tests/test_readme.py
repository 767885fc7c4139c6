"""What README.md says is true."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import TARGET, environment, written

from detrigger import measure
from detrigger.model import Classifier
from detrigger.scan import ScanConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
HELP_SECONDS = 0.5
"""Of CPU, for `detrigger --help`."""


def test_the_example_in_python_finds_and_repairs_a_backdoor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path)
    files.bad.rename(tmp_path / "model.safetensors")
    files.data.rename(tmp_path / "clean_images.npz")
    shutil.copy(Path(__file__).parent / "planted.py", tmp_path / "network.py")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {"QUICK": ScanConfig(budget="quick", precision="fp32")}
        code = block.replace("scan(model, images)", "scan(model, images, QUICK)")
        code = code.replace("clean(model, images, first", "clean(model, images, QUICK, first")
        assert code.count("QUICK") == 2  # in place of a precision that is chosen by timing
        exec(compile(code, "README.md", "exec"), names)
        assert capsys.readouterr().out.startswith(f"backdoored class '{TARGET}' needs ")
        repaired, truth = names["repaired"], files.truth
        assert isinstance(repaired, Classifier)
        assert measure.success(truth.model, truth.images, truth.triggers[0], TARGET) == 1
        assert measure.success(repaired, truth.images, truth.triggers[0], TARGET) < 0.2


def test_the_make_targets_that_it_names_exist() -> None:
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert named >= {"demo", "test"}
    assert named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def test_the_commands_that_it_lists_are_those_there_are() -> None:
    from detrigger.cli import COMMANDS

    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert listed <= set(COMMANDS) and {"scan", "repair", "identify", "inspect"} <= listed
    for line in re.findall(r"^detrigger (\w+) ", README, re.MULTILINE):
        assert line in COMMANDS


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "detrigger", "--help"], check=True, capture_output=True, env=environment()
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < HELP_SECONDS


def test_help_does_without_torch() -> None:
    program = (
        "import sys\nfrom detrigger.cli import run\nassert run(['--help']) == 0\n"
        "assert run(['--version']) == 0\nassert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
