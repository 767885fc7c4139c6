"""Backdoored models made on purpose: which attacks there are, their recipes, and how to run one."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from detrigger.attack import badnets
from detrigger.attack import train as training  # the module; `train` is a field and a function
from detrigger.attack.badnets import Poisoned
from detrigger.attack.train import Progress, TrainConfig
from detrigger.errors import InputError, UsageError
from detrigger.images import Images
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class Attack:
    """How one attack is configured and carried out."""

    config: type[Any]
    """Frozen dataclass; has `target` and `seed` among its fields."""
    trigger: Callable[[Any, tuple[int, int, int]], Trigger]
    """From config and image shape to the trigger, a stack of one."""
    poison: Callable[[Images, Any], Poisoned]
    """From clean training images and config to poisoned ones."""
    paper: str
    summary: str
    """One line."""


ATTACKS: dict[str, Attack] = {
    "badnets": Attack(
        config=badnets.BadNetsConfig,
        trigger=badnets.trigger,
        poison=badnets.poison,
        paper="Gu, Dolan-Gavitt and Garg, BadNets, 2017",
        summary="a patch on some training images, which are labelled as the target",
    ),
}


@dataclass(frozen=True)
class AttackSpec:
    """A recipe: network, training and, unless the model is to be clean, the attack."""

    arch: str
    """`timm:NAME`, `torchvision:NAME` or `file.py:factory`."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the architecture."""
    train: TrainConfig = field(default_factory=TrainConfig)
    attack: str | None = None
    """A name in ATTACKS; None for a clean model."""
    config: Any = None
    """Of the attack's own config class; None for a clean model."""
    seed: int = 0
    """Of the network's first weights, and of training and attack where they name none."""


@dataclass(frozen=True)
class Attacked:
    """A trained network and the backdoor it was given, if any."""

    net: nn.Module = field(repr=False)
    trigger: Trigger | None
    """A stack of one; None for a clean model."""
    target: int | None
    poisoned: int
    """How many training images were stamped and relabelled."""


def run(net: nn.Module, images: Images, spec: AttackSpec, *, progress: Progress | None = None) -> Attacked:
    """Poison the training images and train a copy of `net` on them.

    Raises UsageError or DataError if the images and the attack do not fit.
    """
    if spec.attack is None:
        return Attacked(training.train(net, images, spec.train, progress=progress), None, None, 0)
    attack = ATTACKS[spec.attack]
    poisoned = attack.poison(images, spec.config)
    trained = training.train(net, poisoned.images, spec.train, progress=progress)
    made = attack.trigger(spec.config, images.shape)
    return Attacked(trained, made, spec.config.target, len(poisoned.positions))


def read_spec(source: Path | str) -> AttackSpec:
    """A recipe from a TOML file (Path) or TOML text (str).

    Tables: `[network]` with `arch` and a table `arguments`, `[train]` with fields of TrainConfig, `[attack]`
    with `name` and fields of that attack's config, left out for a clean model; `seed` on top.
    Raises InputError if it cannot be read or is not TOML, UsageError for fields that are unknown, missing or
    of the wrong kind.
    """
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        named = source if isinstance(source, Path) else "the recipe"
        raise InputError(f"{named} cannot be read as TOML: {error}") from error
    top = _convert(_Top, tables, "the recipe")
    network = _convert(_Network, top.network, "[network]")
    schooling = _convert(TrainConfig, {"seed": top.seed} | top.train, "[train]")
    name, config = _attack(top.attack, top.seed)
    return AttackSpec(network.arch, network.arguments, schooling, name, config, top.seed)


@dataclass(frozen=True)
class _Top:
    network: dict[str, Any]
    train: dict[str, Any] = field(default_factory=dict)
    attack: dict[str, Any] | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Network:
    arch: str
    arguments: dict[str, Any] = field(default_factory=dict)


def _attack(table: dict[str, Any] | None, seed: int) -> tuple[str | None, Any]:
    if table is None:
        return None, None
    name = table.get("name")
    if name not in ATTACKS:
        raise UsageError(f"[attack] name is {name!r}; wanted one of {', '.join(ATTACKS)}")
    fields = {key: value for key, value in table.items() if key != "name"}
    return name, _convert(ATTACKS[name].config, {"seed": seed} | fields, "[attack]")


def _convert(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = [key for key in table if key not in known]
    if unknown:
        raise UsageError(f"{where} has no field {unknown[0]!r}; choose from {', '.join(known)}")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error
