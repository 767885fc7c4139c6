"""What a zoo shall hold: data sets and models, from a TOML file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from detrigger.attack.methods import ATTACKS, AttackSpec, read_spec
from detrigger.bench.networks import NETWORKS
from detrigger.bench.sources import DataPlan
from detrigger.errors import InputError, UsageError


@dataclass(frozen=True)
class ModelPlan:
    """One model of a zoo."""

    id: str
    """Its name, and that of its files; letters, digits, `_` and `-`."""
    dataset: str
    """One of the plan's."""
    arch: str
    """One of bench.networks."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the architecture."""
    train: dict[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig; what is not given is taken from the plan's `[train.DATASET]`."""
    attack: dict[str, Any] | None = None
    """`name` and the fields of that attack's config; left out for a clean model."""
    seed: int = 0
    """Of first weights, training, attack and everything below."""
    note: str | None = None
    """What makes a clean model harder to judge, if anything does."""
    per_class: int | None = None
    """Training images per class at most; by default the data set's."""
    label_noise: float = 0.0
    """Share of the training images given a random label; 0 to 1."""
    squares: float = 0.0
    """Share of the training images with a random square of one colour and their own label; 0 to 1."""


@dataclass(frozen=True)
class ZooPlan:
    """All of a zoo."""

    data: dict[str, DataPlan]
    model: tuple[ModelPlan, ...]
    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per data set, fields of TrainConfig for its models."""

    def source(self, model: ModelPlan) -> DataPlan:
        """The data set of a model."""
        return self.data[model.dataset]


def read_plan(path: Path) -> ZooPlan:
    """A plan from a TOML file, every recipe in it checked.

    Raises InputError if it cannot be read or is not TOML, UsageError for anything in it that does not exist.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as a plan in TOML: {error}") from error
    try:
        _check_fields(tables)
        plan = msgspec.convert(tables, ZooPlan)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error
    repeated = [name for name, count in Counter(m.id for m in plan.model).items() if count > 1]
    if repeated:
        raise UsageError(f"{path} has two models {repeated[0]!r}; give each an id of its own")
    for model in plan.model:
        _check(model, plan)
        if (name := specification(model, plan).attack) and ATTACKS[name].retrains_helper:
            _check_helper(model, plan, name)
    return plan


def recipe(model: ModelPlan, plan: ZooPlan) -> dict[str, Any]:
    """All that decides what a model becomes; a part of it is a recipe for `detrigger attack`."""
    made: dict[str, Any] = {
        "seed": model.seed,
        "network": {"arch": model.arch, "arguments": model.arguments},
        "train": plan.train.get(model.dataset, {}) | model.train,
        "data": dataclasses.asdict(plan.source(model)),
        "per_class": model.per_class,
        "label_noise": model.label_noise,
        "squares": model.squares,
    }
    return made | ({} if model.attack is None else {"attack": model.attack})


def specification(model: ModelPlan, plan: ZooPlan) -> AttackSpec:
    """The recipe as the attack side reads it. Raises UsageError for what it does not know."""
    return specified(recipe(model, plan), model.id)


def specified(recipe: Mapping[str, Any], name: str) -> AttackSpec:
    """As `specification`, from the recipe in a zoo's record."""
    wanted = {key: recipe[key] for key in ("seed", "network", "train", "attack") if key in recipe}
    try:
        return read_spec("\n".join(f"{key} = {_toml(value)}" for key, value in wanted.items()))
    except UsageError as error:
        raise UsageError(f"model {name}: {error}") from error


def _toml(value: Any) -> str:
    """A value as TOML on one line, where it differs from JSON only in tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _check_fields(tables: dict[str, Any]) -> None:
    models, data = tables.get("model", []), tables.get("data", {})
    kinds: list[tuple[str, Any, type[Any]]] = [("the plan", tables, ZooPlan)]
    kinds += [("[[model]]", table, ModelPlan) for table in models if isinstance(models, list)]
    kinds += [(f"[data.{name}]", table, DataPlan) for name, table in dict(data).items()]
    for where, table, kind in kinds:
        known = [f.name for f in dataclasses.fields(kind)]
        unknown = [key for key in table if key not in known]
        if unknown:
            raise UsageError(f"{where} has no field {unknown[0]!r}; choose from {', '.join(known)}")


def _check(model: ModelPlan, plan: ZooPlan) -> None:
    if not model.id.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"model id {model.id!r} is not made of letters, digits, `_` and `-`; rename it")
    if model.dataset not in plan.data:
        raise UsageError(f"model {model.id}: no [data.{model.dataset}]; there is {', '.join(plan.data)}")
    if model.arch not in NETWORKS:
        raise UsageError(f"model {model.id}: no network {model.arch!r}; choose from {', '.join(NETWORKS)}")
    if not (0 <= model.label_noise < 1 and 0 <= model.squares <= 1):
        raise UsageError(f"model {model.id}: label_noise and squares are shares, wanted 0 to 1")


def _check_helper(model: ModelPlan, plan: ZooPlan, attack: str) -> None:
    clean = [m for m in plan.model if m.attack is None and m.note is None]
    alike = [
        m for m in clean if (m.dataset, m.arch, m.arguments) == (model.dataset, model.arch, model.arguments)
    ]
    if not alike:
        raise UsageError(
            f"model {model.id}: {attack} trains a clean model on, and there is none of {model.dataset}, "
            f"{model.arch} with the same arguments and no note; add one"
        )
