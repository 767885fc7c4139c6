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
from command import call, environment

from detrigger import cli

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
Capture = pytest.CaptureFixture[str]


# GitHub


def test_the_action_puts_no_input_into_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"] and step["shell"] == "bash" and "uses" not in step


PROGRAM = """#!/bin/sh
printf '%s\\n' "$@" > "$RUNNER_TEMP/words"
mkdir -p "$OUT" && echo '{"verdict": "backdoored"}' > "$OUT/report.json"
exit $CODE
"""
"""Stands in for detrigger."""


def step(folder: Path, code: int) -> tuple[int, dict[str, str], list[str]]:
    """The action's scan as a runner runs it: exit code, outputs, and what detrigger was told."""
    (programs := folder / "detrigger" / "bin").mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "detrigger").write_text(PROGRAM)
    (programs / "detrigger").chmod(0o755)
    (told := folder / "output").touch()
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", ACTION["runs"]["steps"][1]["run"]],
        env=environment(
            RUNNER_TEMP=str(folder),
            GITHUB_OUTPUT=str(told),
            MODEL="a model.pth",
            DATA="images",
            ARGUMENTS="--arch timm:resnet18 --arch-kw 'key=a value; exit 9'",
            OUT=str(folder / "a report"),
            CODE=str(code),
        ),
        capture_output=True,
        check=False,
    )
    outputs = dict(line.split("=", 1) for line in told.read_text().splitlines())
    return done.returncode, outputs, (folder / "words").read_text().splitlines()


def test_the_action_tells_verdict_and_report_and_fails_as_the_scan_does(tmp_path: Path) -> None:
    code, told, words = step(tmp_path / "found", 1)
    sarif = str(tmp_path / "found" / "a report" / "report.sarif")
    assert (code, told) == (1, {"exit-code": "1", "verdict": "backdoored", "sarif": sarif})
    given = ["--arch", "timm:resnet18", "--arch-kw", "key=a value; exit 9"]
    out = ["--data", "images", "--out", str(tmp_path / "found" / "a report")]
    assert words == ["scan", "a model.pth", *out, *given]
    assert step(tmp_path / "broken", 2)[:2] == (2, {"exit-code": "2"})
    assert step(tmp_path / "clean", 0)[0] == 0


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
