"""`detrigger demo` tells and writes what README.md promises, here with fewer images, repairs and steps."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest

import detrigger
from detrigger import measure
from detrigger.cli import demo, run
from detrigger.cli.inputs import InputFlags
from detrigger.load import load_classifier, load_images, load_trigger
from detrigger.scan import Budget, ScanConfig

SHIPPED = Path(detrigger.__path__[0]) / "demo"
TARGET = 7
BUDGETS: tuple[Budget, ...] = ("quick", "standard")
"""Of the two scans; rescans are quick, too, to save time."""
REPAIRS = ("refit",)
"""Of the four that the demo tries; each takes a rescan if the guard accepts it."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo prints, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        budgets = iter(BUDGETS)
        config = lambda: ScanConfig(budget=next(budgets, "quick"), precision="fp32")  # noqa: E731
        patch.setattr(demo, "ScanConfig", config)
        patch.setattr(demo, "InputFlags", functools.partial(InputFlags, per_class=40))
        patch.setattr(demo, "REPAIRS", REPAIRS)
        said: list[str] = []
        patch.setattr("detrigger.cli.console.write", said.append)
        assert run(["demo", "--out", str(out)]) == 0
    return "".join(said), out


def test_it_clears_the_clean_model_and_finds_the_backdoor_of_the_other(shown: tuple[str, Path]) -> None:
    text, out = shown
    verdicts = re.findall(r"^(CLEAN|BACKDOORED|INCONCLUSIVE): ", text, re.MULTILINE)
    assert verdicts == ["CLEAN", "BACKDOORED"]
    assert re.search(rf"BACKDOORED: an? .* sends .*\sto\s+class\s+{TARGET};", text)
    for name, verdict in (("clean", "clean"), ("backdoored", "backdoored")):
        report = json.loads((out / name / "report.json").read_bytes())
        assert report["verdict"] == verdict and (out / name / "report.html").stat().st_size > 10_000
        assert [b["target"] for b in report["backdoors"]] == [TARGET] * (verdict == "backdoored")


def test_it_compares_the_found_trigger_with_the_planted_one(shown: tuple[str, Path]) -> None:
    text, out = shown
    assert f"Found and known trigger of class {TARGET}" in text and "Overlap of the masks" in text
    (match,) = json.loads((out / "backdoored" / "report.json").read_bytes())["identification"]
    assert match["success_known"] > 0.95 and match["success_found"] > 0.8 and match["centre_distance"] < 3


def test_it_repairs_the_model_and_proves_it_with_the_planted_trigger(shown: tuple[str, Path]) -> None:
    text, out = shown
    table = text.split("4. Repairs")[1]
    change = r" +[\d.]+ to [\d.]+"
    row = rf" +(passed|refused) +\S+{change}{change} +(unchanged|[\d.]+ to [\d.]+)$"
    assert all(re.search(f"^{method}{row}", table, re.MULTILINE) for method in REPAIRS)
    images = load_images(SHIPPED / "mnist.npz", limit_per_class=40)
    planted, _ = load_trigger(SHIPPED / "planted_trigger.safetensors")
    repaired = list(out.glob("*/repaired.safetensors"))
    assert repaired
    for method in REPAIRS:
        cleaning = json.loads((out / method / "report.json").read_bytes())["cleaning"]
        assert cleaning["repaired"] == (out / method / "repaired.safetensors" in repaired)
        assert f"{method}/report.html" in "".join(table.split())
    for path in repaired:
        model = load_classifier(
            path, f"{SHIPPED / 'network.py'}:make", shape=images.shape, names=images.names
        )
        assert measure.accuracy(model, images) > 0.95
        assert measure.success(model, images, planted, TARGET) < 0.3


def test_it_fits_a_terminal_of_80_columns_but_for_the_command_that_is_to_be_copied(
    shown: tuple[str, Path],
) -> None:
    text = re.sub(r"^Next: (.*\\\n)+.*\n", "", shown[0], flags=re.MULTILINE)
    assert "Next: " not in text and len(text) > 0.8 * len(shown[0])
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
