"""What is to be reproduced: one TOML file per network and data set, and one for the paper's open points."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from detrigger.attack.methods import ATTACKS, AttackSpec
from detrigger.bench import networks, paper_networks
from detrigger.bench.paper_data import PaperData
from detrigger.bench.plan import specified
from detrigger.bench.poison_rate import NetworkPlan
from detrigger.budgets import BUDGETS
from detrigger.errors import InputError, UsageError


@dataclass(frozen=True)
class OpenPlan:
    """The paper's open points, tried on parts of the training set of a spec."""

    limit: int
    """Training images of each class."""
    train: dict[str, Any]
    """Fields of TrainConfig but for `seed`."""
    sizes: tuple[int, ...] = (2, 3, 4, 6, 8, 10, 14, 20)
    """Sides of a square trigger, in pixels."""
    targets: tuple[int, ...] = (2, 3, 5)
    """Numbers of infected classes, each with a trigger of its own."""
    triggers: tuple[int, ...] = (2, 3)
    """Numbers of triggers for one class."""
    cleanse: dict[str, Any] = field(default_factory=dict)
    """Fields of NeuralCleanseConfig, for the plain method beside ours; empty: it is left out."""
    seeds: int = 1


@dataclass(frozen=True)
class PaperPlan:
    """One network on one data set: per seed a clean twin and a backdoored model."""

    title: str
    dataset: str
    """What `--only` calls it."""
    data: PaperData
    network: NetworkPlan
    train: dict[str, Any]
    """Fields of TrainConfig but for `seed`."""
    attack: dict[str, Any]
    """`name` and fields of that attack's config, but for `target` and `seed`, which the seed draws."""
    reported: dict[str, float] = field(default_factory=dict)
    """The paper's figures, by the names of paper_figures.FIGURES."""
    wanted: dict[str, float] = field(default_factory=dict)
    """What ours are to reach, by the same names."""
    seeds: int = 3
    """At most; 1 to 10."""
    budget: str = "standard"
    """Of the scans."""
    scan_jobs: int = 1
    """Threads of a scan; the result does not depend on it."""
    loop: bool = True
    """Run the whole loop of `detrigger repair`, too; each of its rescans takes as long as the scan."""
    stops: int = 16
    """Measurements on the way while pruning the layers of the layer table."""
    open: OpenPlan | None = None
    note: str = ""
    """What differs from the paper, for the page."""
    id: str = ""
    """The name of the file."""

    def recipe(self, seed: int, attack: dict[str, Any] | None) -> dict[str, Any]:
        """All that decides what a model becomes, as it comes back from JSON."""
        made: dict[str, Any] = {
            "seed": seed,
            "data": dataclasses.asdict(self.data),
            "network": dataclasses.asdict(self.network),
            "train": self.train,
        }
        made |= {} if attack is None else {"attack": attack}
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
        return plain

    def specification(self, seed: int, attack: dict[str, Any] | None) -> AttackSpec:
        """As the attack side reads it; raises UsageError for what it does not know."""
        return specified(self.recipe(seed, attack), f"{self.id}, seed {seed}")


def read_plans(folder: Path, only: Sequence[str] = ()) -> tuple[PaperPlan, ...]:
    """Every `*.toml` of a folder, by name, or those of the data sets in `only`.

    Raises InputError if one cannot be read, UsageError for what does not exist in it or is not there at all.
    """
    plans = tuple(read_one(path) for path in sorted(folder.glob("*.toml")))
    known = sorted({plan.dataset for plan in plans})
    if not plans:
        raise UsageError(f"no *.toml in {folder}; give the folder benchmarks/paper of the project as --specs")
    missing = [name for name in only if name not in known]
    if missing:
        raise UsageError(f"no data set {missing[0]!r}; choose from {', '.join(known)}")
    return tuple(plan for plan in plans if not only or plan.dataset in only)


def read_one(path: Path) -> PaperPlan:
    """A plan from a TOML file, its recipe checked; raises as `read_plans`."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as a spec in TOML: {error}") from error
    parts: list[tuple[Any, type[Any]]] = [(tables, PaperPlan), (tables.get("data"), PaperData)]
    parts += [(tables.get("network"), NetworkPlan), (tables.get("open"), OpenPlan)]
    for table, kind in parts:
        known = [f.name for f in dataclasses.fields(kind)]
        unknown = [key for key in table or {} if key not in known]
        if unknown:
            raise UsageError(f"{path} has no field {unknown[0]!r}; choose from {', '.join(known)}")
    try:
        plan = dataclasses.replace(msgspec.convert(tables, PaperPlan), id=path.stem)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error
    _check(plan, path)
    plan.specification(0, plan.attack | {"target": 0})
    return plan


def _check(plan: PaperPlan, path: Path) -> None:
    known = [*paper_networks.PAPER, *networks.NETWORKS]
    if plan.network.arch not in known:
        raise UsageError(f"{path}: network {plan.network.arch!r}; choose from {', '.join(known)}")
    if plan.budget not in BUDGETS:
        raise UsageError(f"{path}: budget {plan.budget!r}; choose from {', '.join(BUDGETS)}")
    if not 1 <= plan.seeds <= 10:
        raise UsageError(f"{path}: seeds is {plan.seeds}; wanted 1 to 10")
    usable = [name for name, attack in ATTACKS.items() if attack.plant and not attack.needs_helper]
    if plan.attack.get("name") not in usable:
        raise UsageError(f"{path}: attack {plan.attack.get('name')!r}; choose from {', '.join(usable)}")
    shares = (plan.data.test, plan.data.scanner)
    if not all(0 < share < 1 for share in shares):
        raise UsageError(f"{path}: test and scanner are {shares}; wanted shares between 0 and 1")
