"""detrigger.toml and [tool.detrigger] in pyproject.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import call, refused

from detrigger.cli import scan as scan_command
from detrigger.cli.inputs import InputFlags
from detrigger.errors import ModelError

Capture = pytest.CaptureFixture[str]
SCAN = ["scan", "m.safetensors", "--data", "d"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `scan` was asked to read and how to scan; nothing is read."""
    seen: list[Any] = []

    def read_inputs(model: Path, flags: InputFlags) -> None:
        seen.append(flags)
        raise ModelError("seen enough")

    monkeypatch.setattr(scan_command, "read_inputs", read_inputs)
    return seen


def write(name: str, content: str) -> None:
    Path(name).write_text(content, "utf-8")


def test_options_stand_in_either_file_and_flags_override_them(asked: list[Any], capsys: Capture) -> None:
    options = 'data = "images"\nper-class = 20\nmean = [0.5, 0.25, 0]\narch_kw = ["a=1", "b=2"]\nseed = 3\n'
    for name, table in {"pyproject.toml": "tool.detrigger.scan", "detrigger.toml": "scan"}.items():
        write(name, f"[{table}]\n{options}arch = 'timm:{name}'\n")
        refused(capsys, ["scan", "m.safetensors", "--seed", "7"])
        flags: InputFlags = asked[-1]
        assert (flags.data, flags.per_class, flags.mean) == (Path("images"), 20, (0.5, 0.25, 0.0))
        assert (flags.arch_kw, flags.seed, flags.arch) == (("a=1", "b=2"), 7, f"timm:{name}")


def test_options_of_one_command_are_not_those_of_another(asked: list[Any], capsys: Capture) -> None:
    write("detrigger.toml", "[repair]\nseed = 3\n[repair.guard]\naccuracy-drop = 7\n")
    refused(capsys, SCAN)
    assert asked[-1].seed == 0
    line = refused(capsys, ["repair", "m", "--data", "d", "--out", "o"], 4)
    assert "accuracy-drop is 7, wanted 0 to 1" in line


def test_without_a_file_or_a_table_nothing_is_changed(asked: list[Any], capsys: Capture) -> None:
    refused(capsys, SCAN)
    write("pyproject.toml", "[tool.other]\nx = 1\n")
    refused(capsys, SCAN)
    assert asked[0] == asked[1] == InputFlags(Path("d"))


WRONG = {
    "unknown option": ("[scan]\nbudgett = 'quick'", 'Unknown option: "[budgett]" from detrigger.toml'),
    "unknown value": ("[scan]\nbudget = 'huge'", 'Invalid value "huge" for [budget] from detrigger.toml'),
    "unknown command": ("[scann]\nseed = 1", "scann, which is no command of detrigger; did you mean [scan]"),
    "option outside of a table": (
        "seed = 1",
        "seed, which is no command of detrigger; options stand in [scan]",
    ),
    "no table": ("scan = 1", "scan in detrigger.toml is not a table; write [scan]"),
    "no TOML": ("[scan", "detrigger.toml cannot be read as TOML"),
    "no text": ("\x00", "detrigger.toml cannot be read as TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_understood_exits_with_4_and_says_where_it_stands(case: str, capsys: Capture) -> None:
    content, wanted = WRONG[case]
    write("detrigger.toml", content)
    assert wanted in refused(capsys, SCAN, 4)


def test_a_shared_file_names_its_tables_in_full(capsys: Capture) -> None:
    write("pyproject.toml", "[tool.detrigger.scann]\nseed = 1\n")
    assert "did you mean [tool.detrigger.scan]" in refused(capsys, SCAN, 4)
    write("pyproject.toml", "[tool]\ndetrigger = 1\n")
    assert "tool.detrigger in pyproject.toml is not a table" in refused(capsys, SCAN, 4)


def test_code_is_not_run_because_a_file_in_the_folder_names_it(asked: list[Any], capsys: Capture) -> None:
    write("detrigger.toml", "[scan]\narch = 'evil.py:make'\n")
    line = refused(capsys, SCAN, 4)
    assert line.startswith("arch in detrigger.toml is 'evil.py:make', which is code") and not asked
    refused(capsys, [*SCAN, "--arch", "mine.py:make"])
    assert asked[-1].arch == "mine.py:make"


def test_help_works_whatever_the_file_says(capsys: Capture) -> None:
    write("detrigger.toml", "[scan")
    assert call(capsys, ["scan", "--help"]).code == 0 and call(capsys, ["--version"]).code == 0


def test_options_of_the_scan_itself_are_read(capsys: Capture) -> None:
    write("detrigger.toml", "[scan]\nclasses = 'cat'\n")
    assert "--classes is 'cat'" in refused(capsys, SCAN, 4)
