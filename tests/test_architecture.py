"""Which module may import which. LEVELS is the list; docs/architecture.md repeats it for people."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "detrigger"

LEVELS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors",
        "files",
        "huggingface onnx",
        "model images trigger",
        "measure schedule descent outliers fast memory load save",
        "heats delta",
        "invert identify repair certify",
        "neural_cleanse escape control",
        "evidence finding",
        "sources",
        "coefficients",
        "detect budgets portfolio",
        "search",
        "scan",
        "suspects",
        "clean",
        "attack",
        "report engine cluster",
        "bench",
        "cli",
    )
)
"""A module imports only from levels above its own."""

BESIDE = {"__init__": set[str](), "__main__": {"cli"}, "demo": set[str]()}
"""What those outside the levels import: nothing, but for `python -m`. `demo` is data and its architecture."""

ATTACK_IMPORTS = {"errors", "model", "images", "trigger", "measure"}
KNOW_ATTACKS = {"attack", "bench", "cli"}
"""Truth about planted triggers stays outside of what looks for them."""

TABLES = {"trigger", "repair.methods", "attack.methods", "load", "load.data"}
"""Know the files of their package; its other files do not import each other."""

SHARED = {
    "repair": {
        "repair",
        "repair.silencing",
        "repair.tuning",
    },  # what repairs return, and what they are made of
    "attack": {"attack", "attack.poisoning", "attack.patches", "attack.pictures"},
    "load": {"load.pictures"},  # what listed images are, and how they are decoded
    "load.weights": {"load.safetensors_file", "load.state_dict"},
}
"""What the files of a package, or one of them, may import of it all the same."""

COMMAND_PARTS = {"cli"} | {
    f"cli.{part}" for part in ("config", "console", "formats", "inputs", "many", "results")
}
"""What commands share; no command imports another."""

EVERYWHERE = {"torch", "jaxtyping", "numpy", "safetensors", "msgspec"}
ONLY_IN = {
    "cyclopts": {"cli"},
    "rich": {"cli", "report", "bench"},
    "PIL": {"load", "report", "bench"},
    "jinja2": {"report", "bench"},
    "torchvision": {"load", "bench"},
}
HEAVY = ("google", "onnx", "onnxruntime", "pyarrow", "ray", "sklearn", "timm", "torchvision", "transformers")
LAZY = set(HEAVY)
"""Heavy: imported inside a function, when needed."""

TOOLS = {"dev", "docs"}
"""Extras of which the package itself uses nothing."""


def modules() -> dict[str, Path]:
    """Name below `detrigger` (`__init__` for itself) and file."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts
        found[".".join(parts)] = path
    return found


MODULES = modules()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported(parsed: ast.AST) -> set[str]:
    """Full names of everything imported: `a.b.c` for `from a.b import c`, whatever c is."""
    names = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(parsed: ast.AST) -> set[str]:
    """Modules of the project that are imported, named as in MODULES."""
    result = set()
    for name in imported(parsed):
        first, _, rest = name.partition(".")
        if first == "detrigger":
            result.add(next((n for n in (rest, rest.rpartition(".")[0]) if n in MODULES), "__init__"))
    return result


def top(module: str) -> str:
    return module.split(".")[0]


USES = {module: within(tree(path)) for module, path in MODULES.items()}
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}


def test_every_module_has_its_level() -> None:
    assert {top(module) for module in MODULES} == {*LEVEL, *BESIDE}
    assert len(LEVEL) == sum(map(len, LEVELS))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    outside = {use for use in USES[module] if top(use) != top(module) or use == module}
    if top(module) in BESIDE:
        assert outside <= BESIDE[top(module)]
        return
    wrong = {use for use in outside if LEVEL.get(top(use), 99) >= LEVEL[top(module)]}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


@pytest.mark.parametrize("module", [m for m in MODULES if top(m) in map(top, TABLES) and m not in TABLES])
def test_files_of_a_package_do_not_import_their_neighbours(module: str) -> None:
    neighbours = {use for use in USES[module] if top(use) == top(module)}
    assert neighbours <= SHARED.get(module, SHARED.get(top(module), set()))


def test_commands_share_only_their_parts() -> None:
    for module in MODULES:
        if top(module) == "cli":
            assert {use for use in USES[module] if top(use) == "cli"} <= COMMAND_PARTS, module


def test_there_are_no_cycles() -> None:
    left = {module: set(uses) for module, uses in USES.items()}
    while free := {module for module, uses in left.items() if not uses & left.keys()}:
        left = {module: uses for module, uses in left.items() if module not in free}
    assert not left


def test_the_truth_about_attacks_stays_outside_of_the_scanner() -> None:
    for module, uses in USES.items():
        if "attack" in map(top, uses):
            assert top(module) in KNOW_ATTACKS, module
        if top(module) == "attack":
            assert set(map(top, uses)) <= ATTACK_IMPORTS | {"attack"}, module


def foreign(parsed: ast.AST) -> set[str]:
    """Packages of others."""
    return {top(name) for name in imported(parsed)} - sys.stdlib_module_names - {"detrigger"}


def test_packages_of_others_are_imported_where_they_belong() -> None:
    users: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for package in foreign(tree(path)):
            users.setdefault(package, set()).add(module)
    for package, places in users.items():
        if package in ONLY_IN:
            assert set(map(top, places)) <= ONLY_IN[package], package
        elif package not in EVERYWHERE:
            assert len(places) == 1, f"{package} is imported by {sorted(places)}, wanted one file"
    assert users.keys() >= LAZY  # otherwise this list is out of date


def test_heavy_packages_are_imported_when_they_are_needed() -> None:
    for module, path in MODULES.items():
        body = [node for node in tree(path).body if not isinstance(node, ast.FunctionDef)]
        assert not foreign(ast.Module(body, [])) & LAZY, module


def test_packages_of_others_are_declared_and_declared_ones_are_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name in extras if name not in TOOLS for line in extras[name]]
    declared = {re.split(r"[^\w-]", line)[0] for line in lines}
    used = set().union(*(foreign(tree(path)) for path in MODULES.values()))
    renamed = {"PIL": "pillow", "google": "protobuf", "sklearn": "scikit-learn"}
    assert {renamed.get(name, name) for name in used} == declared


def test_public_names_are_sorted_where_they_are_listed() -> None:
    for module, path in MODULES.items():
        for node in tree(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                assert list(names) == sorted(names), module


def test_files_are_short() -> None:
    long = {
        name: count for name, path in MODULES.items() if (count := len(path.read_text().splitlines())) > 300
    }
    assert not long


def test_the_document_tells_the_same_levels() -> None:
    rows = [line.split("|")[1:3] for line in (ROOT / "docs" / "architecture.md").read_text().splitlines()]
    told = []
    for cells in rows:
        names = {n.rstrip("/") for n in re.findall(r"`([\w/]+)`", cells[1])} if len(cells) == 2 else set()
        told.append(frozenset(names & LEVEL.keys()))
    assert tuple(level for level in told if level) == LEVELS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line_starts_without_torch() -> None:
    done = run("-c", "import sys, detrigger.cli; print([m for m in ('torch', 'numpy') if m in sys.modules])")
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("[]", "", 0)


def test_the_package_is_a_program_that_says_what_it_can_do() -> None:
    done = run("-m", "detrigger", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for command in ("scan", "repair", "identify", "inspect", "attack", "demo", "methods", "Exit codes"):
        assert command in done.stdout
