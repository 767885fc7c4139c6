"""Accuracy and attack success against the share of poisoned training images (Menisov 2022, "Experiment")."""

from __future__ import annotations

import dataclasses
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from detrigger import measure
from detrigger.attack.methods import ATTACKS, AttackSpec, victims
from detrigger.attack.methods import run as carry_out
from detrigger.bench import networks
from detrigger.bench.plan import specified
from detrigger.bench.poison_rate_figures import STUDENT, Cell, Study, sentence, study
from detrigger.bench.poison_rate_page import page, plot
from detrigger.bench.processes import Run
from detrigger.bench.sources import DataPlan, read
from detrigger.errors import InputError, UsageError
from detrigger.model import Classifier
from detrigger.save import write_atomically


@dataclass(frozen=True)
class NetworkPlan:
    """The network of a data set."""

    arch: str
    """One of bench.networks."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the architecture."""


@dataclass(frozen=True)
class RatePlan:
    """All of a study: every data set at every rate with every seed."""

    rates: tuple[float, ...]
    """Shares of the training images, from 0 to 1; 0 must be one of them."""
    attack: dict[str, Any]
    """`name` and fields of that attack's config, but for `target`, `poison_rate` and `seed`."""
    data: dict[str, DataPlan]
    network: dict[str, NetworkPlan]
    """One for each data set."""
    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per data set, fields of TrainConfig but for `seed`."""
    seeds: int = 3
    """Models per rate, 2 to 10; a seed decides first weights, training, target class and what is stamped."""
    claim: float = 0.03
    """Below this rate accuracy must not fall significantly. Default: Menisov 2022."""


@dataclass(frozen=True)
class Order:
    """All that is needed to make one model, in whatever process."""

    plan: RatePlan
    dataset: str
    rate: float
    seed: int
    root: Path
    """Of the data."""
    cards: Path

    @property
    def card(self) -> Path:
        """Where the result goes."""
        return self.cards / f"{self.dataset}_{self.rate:g}_{self.seed}.json"

    @property
    def place(self) -> tuple[str, float, int]:
        """In the grid of the study."""
        return self.dataset, self.rate, self.seed

    def recipe(self) -> dict[str, Any]:
        """All that decides what the model becomes, as it comes back from JSON."""
        plan = self.plan
        made = {
            "seed": self.seed,
            "rate": self.rate,
            "data": dataclasses.asdict(plan.data[self.dataset]),
            "network": dataclasses.asdict(plan.network[self.dataset]),
            "train": plan.train.get(self.dataset, {}),
            "attack": plan.attack,
        }
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
        return plain

    def specification(self, target: int) -> AttackSpec:
        """As the attack side reads it; a rate of 0 stands as 1, for the sake of the trigger."""
        attack = self.plan.attack | {"target": target, "poison_rate": float(self.rate or 1)}
        return specified(self.recipe() | {"attack": attack}, self.card.stem)


def read_rate_plan(path: Path) -> RatePlan:
    """A plan from a TOML file, every recipe in it checked.

    Raises InputError if it cannot be read or is not TOML, UsageError for anything in it that does not exist.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as a plan in TOML: {error}") from error
    _refuse_unknown(tables, RatePlan, str(path))
    try:
        plan = msgspec.convert(tables, RatePlan)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error
    for name, kind in (("data", DataPlan), ("network", NetworkPlan)):
        for dataset, table in tables[name].items():
            _refuse_unknown(table, kind, f"{path} [{name}.{dataset}]")
    _check(plan, path)
    for order in orders(plan, Path(), Path()):
        order.specification(0)
    return plan


def orders(plan: RatePlan, root: Path, cards: Path) -> list[Order]:
    """Those of one data set one after another."""
    return [
        Order(plan, dataset, rate, seed, root, cards)
        for dataset in plan.data
        for rate in sorted(plan.rates)
        for seed in range(plan.seeds)
    ]


def make(order: Order) -> Cell:
    """Train one model, measure it on all test images, write its card."""
    source = read(order.plan.data[order.dataset], order.root)
    training, test = source.train.images(), source.test.images()
    shape, classes = training.shape, len(training.names)
    generator = torch.Generator().manual_seed(order.seed)
    target = int(torch.randint(classes, (1,), generator=generator))
    spec = order.specification(target)
    planned = order.plan.network[order.dataset]
    torch.manual_seed(order.seed)
    net = networks.make(planned.arch, shape[0], classes, shape[1], **planned.arguments)
    began = time.process_time()
    attacked = carry_out(net, training, spec if order.rate else dataclasses.replace(spec, attack=None))
    cpu_seconds = time.process_time() - began
    model = Classifier(attacked.net, training.names, shape)
    plant = ATTACKS[order.plan.attack["name"]].plant
    (planted,) = plant(spec.config, shape) if plant else attacked.planted
    mask, wanted = victims(planted, test.y, classes)
    cell = Cell(
        dataset=order.dataset,
        rate=order.rate,
        seed=order.seed,
        target=target,
        poisoned=attacked.poisoned,
        images=len(training),
        accuracy=measure.accuracy(model, test),
        success=measure.stamped(model, test.where(mask), planted.stamp, wanted[mask]).success,
        cpu_seconds=round(cpu_seconds, 1),
        recipe=order.recipe(),
    )
    write_atomically(order.card, _json(cell))
    return cell


def bench_poison_rate(
    plan: RatePlan,
    root: Path,
    out: Path,
    *,
    run: Run,
    said: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[list[Cell], Study]:
    """Make the models that have no card with the same recipe yet; write summary.json, index.html, plot.svg.

    `root` is the folder that the plan's paths start from; `said` is called with models made and models to
    make. The cells are in the order of the plan. Raises DataError for data that cannot be used.
    """
    cards = out / "cards"
    cards.mkdir(parents=True, exist_ok=True)
    wanted = orders(plan, root, cards)
    found = {order.place: cell for order in wanted if (cell := _kept(order))}
    missing = [order for order in wanted if order.place not in found]
    for done, cell in enumerate(run(make, missing), 1):
        found[cell.dataset, cell.rate, cell.seed] = cell
        said(done, len(missing))
    cells = [found[order.place] for order in wanted]
    result = study(cells, plan.claim)
    written = {
        "sentence": sentence(result),
        "study": result,
        "plan": dataclasses.asdict(plan),
        "cells": cells,
    }
    write_atomically(out / "summary.json", _json(written))
    write_atomically(out / "index.html", page(result, plan.seeds).encode())
    write_atomically(out / "plot.svg", plot(result).encode())
    return cells, result


def _kept(order: Order) -> Cell | None:
    """From a card of the same recipe; a card that cannot be read is made again."""
    if not order.card.is_file():
        return None
    try:
        cell = msgspec.json.decode(order.card.read_bytes(), type=Cell)
    except msgspec.DecodeError:
        return None
    return cell if cell.recipe == order.recipe() else None


def _check(plan: RatePlan, path: Path) -> None:
    for name in plan.data:
        arch = plan.network[name].arch if name in plan.network else None
        if arch not in networks.NETWORKS:
            known = ", ".join(networks.NETWORKS)
            raise UsageError(f"{path}: network of {name} is {arch!r}; choose from {known}")
    once = len(set(plan.rates)) == len(plan.rates)
    if not (0 in plan.rates and all(0 <= rate <= 1 for rate in plan.rates) and once and plan.data):
        raise UsageError(
            f"{path}: rates {plan.rates}, {len(plan.data)} data sets; wanted one or more, each rate once, "
            "from 0 to 1, 0 among them"
        )
    if not any(0 < rate < plan.claim for rate in plan.rates):
        raise UsageError(f"{path}: no rate above 0 and below claim, {plan.claim:g}; add one")
    if not 2 <= plan.seeds <= len(STUDENT) + 1:
        raise UsageError(f"{path}: seeds is {plan.seeds}; wanted 2 to {len(STUDENT) + 1}")
    usable = [name for name, attack in ATTACKS.items() if attack.plant and not attack.needs_helper]
    if plan.attack.get("name") not in usable:
        raise UsageError(f"{path}: attack {plan.attack.get('name')!r}; choose from {', '.join(usable)}")
    drawn = {"target", "poison_rate", "seed"} & plan.attack.keys()
    if drawn:
        raise UsageError(
            f"{path}: [attack] has {sorted(drawn)[0]!r}, which the study itself sets; leave it out"
        )


def _refuse_unknown(table: dict[str, Any], kind: type[Any], where: str) -> None:
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = [key for key in table if key not in known]
    if unknown:
        raise UsageError(f"{where} has no field {unknown[0]!r}; choose from {', '.join(known)}")


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
