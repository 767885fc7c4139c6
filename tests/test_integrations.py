"""What other tools start: the GitHub Action, the pre-commit hook, the container, shells, the notebook."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Files, call, environment, written

from detrigger import cli

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


# GitHub


def test_the_action_puts_no_input_into_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"] and step["shell"] == "bash" and "uses" not in step


def step(folder: Path, files: Files, model: Path, *more: str) -> tuple[int, dict[str, str]]:
    """The action's scan as a runner runs it: exit code and outputs."""
    (programs := folder / "detrigger" / "bin").mkdir(parents=True, exist_ok=True)
    for name, words in {"python": "", "detrigger": "-m detrigger "}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (programs / name).chmod(0o755)
    (told := folder / "output").write_text("")
    flags = " ".join(f"'{word}'" for word in files.scan(model, *more)[4:])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", ACTION["runs"]["steps"][1]["run"]],
        env=environment(
            RUNNER_TEMP=str(folder),
            GITHUB_OUTPUT=str(told),
            MODEL=str(model),
            DATA=str(files.data),
            ARGUMENTS=flags,
            OUT=str(folder / "a report"),
        ),
        capture_output=True,
        check=False,
    )
    return done.returncode, dict(line.split("=", 1) for line in told.read_text().splitlines())


def test_the_action_tells_verdict_and_report_and_fails_as_the_scan_does(files: Files, tmp_path: Path) -> None:
    code, told = step(tmp_path, files, files.bad)
    assert (code, told["exit-code"], told["verdict"]) == (1, "1", "backdoored")
    assert Path(told["sarif"]).is_file()
    code, told = step(tmp_path, files, tmp_path / "nothing.pth")
    assert (code, told) == (2, {"exit-code": "2"})


# pre-commit


def test_the_hook_calls_a_command_that_there_is_for_files_of_models() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    program, command = hook["entry"].split()
    assert program == "detrigger" and command in cli.COMMANDS and hook["language"] == "python"
    for name in ("a.pt", "b/c.pth", "d.safetensors", "e.onnx", "f.pkl", "g.bin"):
        assert re.search(hook["files"], name), name
    assert not re.search(hook["files"], "readme.md")


# container


def test_the_container_runs_as_nobody_special_and_has_all_extras_that_it_names() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8")
    assert re.search(r"^USER [1-9]\d*$", lines, re.MULTILINE) and 'ENTRYPOINT ["detrigger"]' in lines
    extras = set(re.findall(r"\.\[([\w,]+)\]", lines)[0].split(","))
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert extras <= set(declared)
    copied = re.findall(r"^COPY ([^-].*) \S+$", lines, re.MULTILINE)
    let_through = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == set(let_through)
    assert all((ROOT / name).exists() for name in let_through)


# shells


def test_bash_completes_commands_flags_and_values(capsys: Capture, tmp_path: Path) -> None:
    (script := tmp_path / "completion").write_text(call(capsys, ["completion", "bash"]).out)

    def completed(line: str) -> list[str]:
        last = len(line.split()) - 1
        program = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={last}; _detrigger"
        program += '; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        return [word.strip() for word in done.stdout.split()]

    assert "scan" in completed("detrigger sc") and "--baseline" in completed("detrigger scan --b")
    assert completed("detrigger scan --budget th") == ["thorough"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_script(shell: str, capsys: Capture) -> None:
    said = call(capsys, ["completion", shell])
    assert said.code == 0 and "detrigger" in said.out and "thorough" in said.out


# notebook


def test_the_notebook_runs_and_shows_what_it_says(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    notebook = json.loads((ROOT / "examples" / "digits.ipynb").read_bytes())
    shown: list[Any] = []
    stand_in = types.ModuleType("IPython.display")
    stand_in.Image, stand_in.display = bytes, shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    said = capsys.readouterr().out
    assert "backdoored" in said and "class 7:" in said and "True - " in said
    assert shown[0].startswith(b"\x89PNG")
    before, after = (float(share) for share in re.findall(r"succeeds on ([\d.]+)%", said))
    assert before > 99 and after < 10
