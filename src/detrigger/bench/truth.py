"""What a zoo's records say, joined to what the scanner said; after it has said it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from detrigger import measure
from detrigger.bench.make import Record
from detrigger.bench.relearn import RelearnConfig, relearned
from detrigger.bench.sealed import Card, Sealed, opened
from detrigger.clean import CleanConfig
from detrigger.errors import DataError
from detrigger.finding import CONTROL
from detrigger.images import Images
from detrigger.load import load_classifier
from detrigger.model import Classifier
from detrigger.scan import ScanConfig


@dataclass(frozen=True)
class Repaired:
    """A model before and after its repair, on the judge's images, with the triggers that were planted."""

    accuracy_before: float
    accuracy_after: float
    success_before: float
    """Attack success rate of the planted trigger that had most."""
    success_after: float
    """The same after the repair."""
    robust_before: float
    """Share of stamped images given their own label; the trigger with the lowest."""
    robust_after: float
    """The same after the repair."""
    recall_drop: float
    """Of the class that lost most."""
    effectiveness: float
    """Defence effectiveness rating."""
    doubt: bool = False
    """A rescan was inconclusive, or one of three raised an alarm."""
    cpu_seconds: float = math.nan
    """Of repair and rescans."""
    relearned_before: float = math.nan
    """As `success_before`, once the model was tuned with a handful of poisoned images; NaN: not measured."""
    relearned_after: float = math.nan
    """The same of the repaired model."""


@dataclass(frozen=True)
class Row:
    """One model: what was said, what is true."""

    id: str
    dataset: str
    arch: str
    attack: str
    """`clean` for a clean one."""
    backdoored: bool
    weak: bool
    verdict: str
    probability: float
    found: tuple[int, ...]
    """Targets named."""
    targets: tuple[int, ...]
    """Targets planted; empty for clean and all-to-all."""
    target_named: bool | None
    """Is one of the planted targets named? None if there is none, or the verdict is not `backdoored`."""
    sources_named: bool | None
    """Does the backdoor found at a planted target name the planted sources? None if none is found there."""
    controlled: bool
    """A control was asked."""
    image_passes: int
    seconds: float
    cpu_seconds: float
    peak_memory: int
    """In bytes."""
    repair: Repaired | None = None


def sealed(
    record: Record,
    zoo: Path,
    cards: Path,
    config: ScanConfig,
    *,
    repair: CleanConfig | None = None,
    per_class: int | None = None,
    seed: int = 0,
) -> Sealed:
    """A record's model with everything that tells the truth about it left out."""
    if "arch_spec" in record:
        architecture, arguments = f"{zoo}/{record['arch_spec']}", {}
    else:
        channels, size, _ = record["input_shape"]
        architecture = f"{zoo}/arch.py:make"
        shape = {"in_ch": channels, "classes": record["num_classes"], "size": size}
        arguments = {"arch": record["arch"], **shape, **record["arch_kwargs"]}
    return Sealed(
        weights=zoo / record["weights"],
        architecture=architecture,
        arguments=arguments,
        data=zoo / "data_slices" / f"{record['dataset']}.npz",
        card=cards / f"{record['id']}.json",
        config=config,
        repair=repair,
        per_class=per_class,
        seed=seed,
    )


def joined(
    record: Record,
    card: Card,
    given: Sealed,
    triggers: ModuleType | None,
    *,
    relearn: RelearnConfig | None = None,
) -> Row:
    """The row of a model; `triggers` are the zoo's own, needed if it was repaired.

    With `relearn`, the models before and after repair are also measured once they were tuned.
    """
    repaired = _repaired(record, card, given, triggers, relearn) if card.repaired and triggers else None
    told = card.scan
    named = tuple(sorted({b.target for b in told.backdoors}))
    targets = tuple(sorted({t for t in record.get("targets") or () if t is not None}))
    detected = told.verdict == "backdoored"
    wanted: Literal["all"] | set[int] = set(record["sources"]) if record.get("sources") else "all"
    at_target = [
        b.sources if b.sources == "all" else set(b.sources) for b in told.backdoors if b.target in targets
    ]
    return Row(
        id=record["id"],
        dataset=record["dataset"],
        arch=record["arch"],
        attack=record.get("attack") or "clean",
        backdoored=record["backdoored"],
        weak=bool(record.get("weak")),
        verdict=told.verdict,
        probability=told.probability,
        found=named,
        targets=targets,
        target_named=bool(set(named) & set(targets)) if targets and detected else None,
        sources_named=wanted in at_target if at_target and detected else None,
        controlled=any(CONTROL in c.evidence for c in told.classes),
        image_passes=told.cost.image_passes,
        seconds=_number(told.cost.seconds),
        cpu_seconds=_number(told.cost.cpu_seconds),
        peak_memory=card.peak_memory,
        repair=repaired,
    )


def zoo_triggers(zoo: Path) -> ModuleType:
    """The zoo's own `triggers.py`, which is run: a zoo is trusted by naming it. Raises DataError."""
    path = zoo / "triggers.py"
    spec = importlib.util.spec_from_file_location("detrigger_zoo_triggers", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"{path} is not there; a zoo needs it to measure repairs")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judge_images(zoo: Path, record: Mapping[str, Any], names: tuple[str, ...]) -> Images:
    """Those that the scanner does not get. Raises DataError if there are none."""
    path = zoo / "data_slices" / f"{record['dataset']}.npz"
    with np.load(path, allow_pickle=False) as file:
        if "x_eval" not in file or "y_eval" not in file:
            raise DataError(f"{path} has no x_eval and y_eval to judge on; build the zoo again")
        x, y = torch.from_numpy(file["x_eval"]), torch.from_numpy(file["y_eval"]).long()
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return Images(x.float() / 255, y, names)


def _repaired(
    record: Record, card: Card, given: Sealed, triggers: ModuleType, relearn: RelearnConfig | None
) -> Repaired:
    before, clean = opened(given)
    images = judge_images(given.data.parent.parent, record, clean.names)
    after = load_classifier(
        given.card.parent / (card.repaired or ""),
        given.architecture,
        given.arguments,
        shape=clean.shape,
        names=clean.names,
    )
    accuracies = [measure.accuracy(model, images) for model in (before, after)]
    attacked = [_attacked(model, images, record, triggers) for model in (before, after)]
    recalls = [
        measure.recalls(measure.predictions(model, images.x), images.y, len(clean.names))
        for model in (before, after)
    ]
    tuned = [math.nan, math.nan]
    if relearn and record["triggers"]:
        models = [_tuned(model, clean, record, triggers, relearn) for model in (before, after)]
        tuned = [_attacked(model, images, record, triggers)[0] for model in models]
    return Repaired(
        accuracy_before=accuracies[0],
        accuracy_after=accuracies[1],
        success_before=attacked[0][0],
        success_after=attacked[1][0],
        robust_before=attacked[0][1],
        robust_after=attacked[1][1],
        recall_drop=float((recalls[0] - recalls[1]).nan_to_num(0.0).max()),
        effectiveness=measure.defence_effectiveness(
            accuracies[0], accuracies[1], attacked[0][0], attacked[1][0]
        ),
        doubt=bool(card.scan.cleaning and card.scan.cleaning.doubt),
        cpu_seconds=_number(card.repair_cpu_seconds),
        relearned_before=tuned[0],
        relearned_after=tuned[1],
    )


def _tuned(
    model: Classifier, clean: Images, record: Record, triggers: ModuleType, config: RelearnConfig
) -> Classifier:
    """The model tuned on clean images, of which a few more carry the planted triggers and their labels."""
    poisoned, labels = [], []
    for which in range(len(record["triggers"])):
        mask, goal = triggers.victims(record, clean.y, which)
        victims = mask.nonzero()[:, 0]
        order = torch.randperm(len(victims), generator=torch.Generator().manual_seed(which))
        chosen = victims[order[: config.poisoned]]
        poisoned.append(triggers.apply(record, clean.x[chosen], which))
        labels.append(goal[chosen])
    return relearned(model, clean, torch.cat(poisoned), torch.cat(labels), config, seed=0)


def _attacked(model: Classifier, images: Images, record: Record, triggers: ModuleType) -> tuple[float, float]:
    """Highest attack success rate and lowest robust accuracy over the planted triggers."""
    successes, robust = [0.0], [1.0]
    for which in range(len(record["triggers"])):
        mask, goal = triggers.victims(record, images.y, which)
        given = measure.predictions(model, triggers.apply(record, images.x[mask], which))
        successes.append((given == goal[mask]).double().mean().item())
        robust.append((given == images.y[mask]).double().mean().item())
    return max(successes), min(robust)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
