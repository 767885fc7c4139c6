"""What the pages in docs/ say is true."""

from __future__ import annotations

import importlib.util
import re
import shlex
import types
from pathlib import Path

import pytest
import yaml

from detrigger import cli
from detrigger.cli import formats
from detrigger.cli.methods import listed
from detrigger.detect import DetectConfig
from detrigger.repair.guard import GuardConfig
from detrigger.report import words
from detrigger.report.formats import FORMATS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}


def commands_shown() -> list[str]:
    """Every command line of detrigger on a page (after a dollar sign) or in the README."""
    found = []
    for text in PAGES.values():
        found += re.findall(r"^\$ detrigger (.*)$", re.sub(r"\\\n\s*", "", text), re.MULTILINE)
    return sorted(
        {*found, *re.findall(r"^detrigger (.*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)}
    )


@pytest.fixture(scope="module")
def hooks() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_are_shown() -> None:
    assert {line.split()[0] for line in commands_shown()} >= {"scan", "repair", "inspect", "baseline", "demo"}


@pytest.mark.parametrize("line", commands_shown())
def test_a_command_that_is_shown_is_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split(" > ")[0], comments=True)
    cli.build().parse_args(words, exit_on_error=False, print_error=False)


def test_options_that_are_shown_in_a_file_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r'^```toml title="(\S+)"\n(.*?)^```', PAGES["pipelines.md"], re.DOTALL | re.MULTILINE)
    assert {name for name, _ in shown} == {"detrigger.toml", "pyproject.toml"}
    for name, content in shown:
        (tmp_path / name).write_text(content)
        for line in (["scan", "m", "--data", "d"], ["repair", "m", "--data", "d", "--out", "o"]):
            cli.build().parse_args(line, exit_on_error=False, print_error=False)
        (tmp_path / name).unlink()


def test_pages_made_from_the_code_have_all_of_it(hooks: types.ModuleType) -> None:
    methods = hooks.on_page_markdown(PAGES["methods.md"], page=None)
    for title, rows in listed().items():
        assert f"## {title}" in methods and all(
            f"| `{name}` | {text} |" in methods for name, text in rows.items()
        )
    commands = hooks.on_page_markdown(PAGES["commands.md"], page=None)
    assert all(f"## detrigger {name}\n" in commands for name in cli.COMMANDS)
    assert "`--baseline PATH`" in commands and "<!-- " not in methods + commands
    threats = hooks.on_page_markdown(PAGES["threat_model.md"], page=None)
    assert "\n## What is not promised\n" in threats and "(docs/" not in threats
    assert hooks.on_page_markdown("as it is", page=None) == "as it is"


def test_every_page_of_the_site_exists_and_every_format_and_variable_is_told() -> None:
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r": (\w+\.md)$", site, re.MULTILINE))
    assert named <= PAGES.keys() and yaml.safe_load(site)["hooks"] == ["docs/hooks.py"]
    assert all(f"| `{told.file}` | `{name}` |" in PAGES["pipelines.md"] for name, told in FORMATS.items())
    for variable in (cli.TRACEBACK, formats.SUMMARY, formats.WORKSPACE):
        assert f"| `{variable}` |" in PAGES["exit_codes.md"]


def test_the_limits_that_the_pages_tell_are_those_of_the_code() -> None:
    how, detect, guard = " ".join(PAGES["how.md"].split()), DetectConfig(), GuardConfig()
    assert f"From {detect.alarm:g} on the verdict is `backdoored`, from {detect.doubt:g} on" in how
    assert f"under {words.SURE:g} and more than {words.NEAR:g} below the highest" in how
    told = " ".join(PAGES["faq.md"].split())
    limits = guard.accuracy_drop, guard.recall_drop, guard.target_recall_drop
    points = [f"{100 * share:g}" for share in limits]
    assert "{} points of accuracy, {} points of recall in one class and {} in the".format(*points) in told
