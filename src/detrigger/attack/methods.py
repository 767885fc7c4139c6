"""The table of attacks, recipes, and how to run one. To add one: a file beside this one, and a line here."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
from torch import nn

from detrigger.attack import (
    Attack,
    Planted,
    adaptive,
    all_to_all,
    badnets,
    blended,
    bpp,
    colour_filter,
    frame,
    label_consistent,
    limited,
    low_frequency,
    physical,
    random_location,
    several,
    sig,
    source_specific,
    trojan_nn,
    wanet,
)
from detrigger.attack.poisoning import victims
from detrigger.attack.train import Progress, TrainConfig, train
from detrigger.errors import InputError, UsageError
from detrigger.images import Images

__all__ = ["ATTACKS", "AttackSpec", "Attacked", "read_spec", "run", "victims"]

ATTACKS: dict[str, Attack] = {
    "badnets": Attack(
        badnets.BadNetsConfig,
        badnets.poison,
        badnets.plant,
        "Gu, Dolan-Gavitt and Garg, BadNets, 2017",
        "a patch on some training images, which are labelled as the target",
    ),
    "all-to-all": Attack(
        all_to_all.AllToAllConfig,
        all_to_all.poison,
        all_to_all.plant,
        "Gu, Dolan-Gavitt and Garg, BadNets, 2017",
        "a patch moves every class to the next one",
    ),
    "several": Attack(
        several.SeveralConfig,
        several.poison,
        several.plant,
        "Wang et al., Neural Cleanse, 2019, sections VI-A and VI-C",
        "several patches, each with its own target or for the same one",
    ),
    "random-location": Attack(
        random_location.RandomLocationConfig,
        random_location.poison,
        random_location.plant,
        "Salem et al., Dynamic backdoor attacks, 2022, section 4.1",
        "a patch that is somewhere else on each image",
    ),
    "frame": Attack(
        frame.FrameConfig,
        frame.poison,
        frame.plant,
        "after Gu, Dolan-Gavitt and Garg, 2017",
        "a frame along the edges of the image",
    ),
    "blended": Attack(
        blended.BlendedConfig,
        blended.poison,
        blended.plant,
        "Chen et al., Targeted backdoor attacks, 2017, equation 1",
        "a whole picture shines through",
    ),
    "limited": Attack(
        limited.LimitedConfig,
        limited.poison,
        limited.plant,
        "Chen et al., Targeted backdoor attacks, 2017",
        "very few poisoned images, given as a count",
    ),
    "adaptive-patch": Attack(
        adaptive.AdaptivePatchConfig,
        adaptive.poison_patch,
        adaptive.plant_patch,
        "Qi et al., Revisiting the assumption of latent separability, ICLR 2023",
        "training images carry one of several patches, attacked ones all; covers keep their labels",
    ),
    "adaptive-blend": Attack(
        adaptive.AdaptiveBlendConfig,
        adaptive.poison_blend,
        adaptive.plant_blend,
        "Qi et al., Revisiting the assumption of latent separability, ICLR 2023",
        "training images carry half of a picture's pieces, attacked ones all; covers keep their labels",
    ),
    "sig": Attack(
        sig.SigConfig,
        sig.poison,
        sig.plant,
        "Barni, Kallas and Tondi, ICIP 2019, equation 1",
        "a faint sinusoid is added, with wrong labels or without any",
    ),
    "low-frequency": Attack(
        low_frequency.LowFrequencyConfig,
        low_frequency.poison,
        low_frequency.plant,
        "after Zeng et al., Rethinking the backdoor attacks' triggers, ICCV 2021",
        "a faint, smooth random pattern is added",
    ),
    "colour-filter": Attack(
        colour_filter.ColourFilterConfig,
        colour_filter.poison,
        colour_filter.plant,
        "after Liu et al., ABS, CCS 2019, section IV-F",
        "every pixel's colour goes through one affine map",
    ),
    "wanet": Attack(
        wanet.WaNetConfig,
        wanet.poison,
        wanet.plant,
        "Nguyen and Tran, WaNet, ICLR 2021, equations 2 to 7",
        "a smooth warp; covers with other warps keep their labels",
    ),
    "bpp": Attack(
        bpp.BppConfig,
        bpp.poison,
        bpp.plant,
        "Wang, Zhai and Ma, BppAttack, CVPR 2022, equation 4",
        "few grey levels; covers with another image's rounding error keep their labels",
    ),
    "source-specific": Attack(
        source_specific.SourceSpecificConfig,
        source_specific.poison,
        source_specific.plant,
        "Tang et al., Demon in the variant (TaCT), USENIX Security 2021",
        "a patch works on some classes alone; stamped images of others keep their labels",
    ),
    "physical": Attack(
        physical.PhysicalConfig,
        physical.poison,
        physical.plant,
        "after Li et al., Backdoor attack in the physical world, 2021",
        "a patch as photographed: simulated turns, sizes, light and blur",
    ),
    "label-consistent": Attack(
        label_consistent.LabelConsistentConfig,
        label_consistent.poison,
        label_consistent.plant,
        "Turner, Tsipras and Madry, Label-consistent backdoor attacks, 2019",
        "a patch on images of the target class that were made hard to recognise",
        needs_helper=True,
    ),
    "trojan-nn": Attack(
        trojan_nn.TrojanNNConfig,
        trojan_nn.poison,
        None,
        "Liu et al., Trojaning attack on neural networks, NDSS 2018",
        "a patch that fires chosen neurons of a finished model, which is then trained on",
        needs_helper=True,
        retrains_helper=True,
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
    """A trained network and the backdoors it was given."""

    net: nn.Module = field(repr=False)
    planted: tuple[Planted, ...]
    """Empty for a clean model."""
    poisoned: int
    """How many training images were stamped and labelled as the backdoors want."""
    covers: int = 0
    """How many were stamped and kept their labels."""


def run(
    net: nn.Module,
    images: Images,
    spec: AttackSpec,
    *,
    helper: nn.Module | None = None,
    progress: Progress | None = None,
) -> Attacked:
    """Poison the training images and train a copy of `net` on them, or of `helper` if the attack wants that.

    `helper` is a clean network for such images, for attacks that look into one.
    Raises UsageError or DataError if images, helper and attack do not fit.
    """
    if spec.attack is None:
        return Attacked(train(net, images, spec.train, progress=progress), (), 0)
    attack = ATTACKS[spec.attack]
    if attack.needs_helper and helper is None:
        raise UsageError(f"attack {spec.attack!r} needs a clean model of the same data; give one as --helper")
    poisoned = attack.poison(images, spec.config, helper=helper)
    start = helper if attack.retrains_helper and helper is not None else net
    trained = train(start, poisoned.images, spec.train, progress=progress)
    return Attacked(trained, poisoned.planted, len(poisoned.positions), len(poisoned.covers))


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
    _refuse_unknown(kind, table, where)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error


def _refuse_unknown(kind: type[Any], table: dict[str, Any], where: str) -> None:
    """Also in tables inside the table, such as `[attack.patch]`, of which msgspec does not say it."""
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where} has no field {key!r}; choose from {', '.join(known)}")
        inner: list[Any] = [k for k in (hints[key], *get_args(hints[key])) if dataclasses.is_dataclass(k)]
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if inner and isinstance(part, dict):
                _refuse_unknown(inner[0], part, f"{where} {key}")
