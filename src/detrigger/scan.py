"""Synthesise, judge, measure again: one model in, one report out."""

from __future__ import annotations

import builtins
import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from detrigger import fast, measure
from detrigger.detect import PLAIN, DetectConfig, Finding, detect
from detrigger.errors import DataError, ModelError, UsageError
from detrigger.images import Images
from detrigger.invert import Inversion, InvertConfig, Map, Progress, invert, silent
from detrigger.model import Classifier, Origin
from detrigger.neural_cleanse import NeuralCleanseConfig, neural_cleanse
from detrigger.trigger import Trigger

Budget = Literal["quick", "standard", "thorough"]

BUDGETS: dict[Budget, InvertConfig] = {
    "quick": InvertConfig(steps=60, images_per_step=8),
    "standard": InvertConfig(),
    "thorough": InvertConfig(steps=400, images_per_step=32, weight_rate=1.05),
}
"""What the search may spend; a class costs steps × images per step image passes."""


@dataclass(frozen=True)
class ScanConfig:
    """What to scan and how hard."""

    budget: Budget = "standard"
    """How much work: quick about 0.3, standard 1, thorough 7 times the image passes."""
    precision: fast.Precision = "auto"
    """Of the search: `auto` is bf16 where that is measured to be faster; `fp32` is the same anywhere."""
    synthesis: Literal["detrigger", "neural-cleanse"] = "detrigger"
    """`neural-cleanse` is the published method with the published verdict, for comparison; slow."""


@dataclass(frozen=True)
class Backdoor:
    """One backdoor that was found (verdict `backdoored`) or is suspected (verdict `inconclusive`)."""

    target: int
    sources: Literal["all"] | tuple[int, ...]
    """Classes whose images it takes."""
    family: str
    trigger: Trigger = field(repr=False)
    """A stack of one."""
    size: float
    success: float
    """Attack success rate on held-out images, fp32."""
    probability: float


@dataclass(frozen=True)
class Cost:
    """What a scan took."""

    seconds: float
    cpu_seconds: float
    image_passes: int
    """Images sent forward (and, while searching, backward) through the network."""
    device: str
    precision: str


@dataclass(frozen=True)
class Scan:
    """Everything a scan found out."""

    finding: Finding
    backdoors: tuple[Backdoor, ...]
    """Most probable first."""
    family: str
    """Kind of trigger that sizes of classes refer to."""
    origin: Origin
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    data_path: str
    data_sha256: str
    images: int
    accuracy: float
    """Clean accuracy on the data given."""
    recalls: tuple[float, ...]
    """Per class; NaN for a class without images."""
    cost: Cost
    seed: int
    config: dict[str, Any]


def scan(
    model: Classifier,
    images: Images,
    config: ScanConfig = ScanConfig(),
    *,
    targets: tuple[int, ...] = (),
    seed: int = 0,
    map: Map = builtins.map,
    progress: Progress = silent,
) -> Scan:
    """Look for a backdoor in `model`, given clean labelled images (a few per class).

    `targets` are the classes to try as targets, all by default.
    Raises DataError for images that do not fit, UsageError for classes that do not exist, ModelError for a
    network whose outputs are not finite.
    """
    _check(model, images, targets)
    began, cpu_began = time.perf_counter(), time.process_time()
    predicted = _predictions(model, images)
    accuracy = (predicted == images.y).float().mean().item()
    recalls = measure.recalls(predicted, images.y, len(model.classes))
    targets = tuple(dict.fromkeys(targets)) or tuple(range(len(model.classes)))
    inversion: Inversion | None = None
    if doubt := _near_chance(accuracy, images):
        finding = Finding("inconclusive", 0.5, (doubt,), ())
    else:
        if config.synthesis == "neural-cleanse":
            inversion = neural_cleanse(
                model, images, targets, NeuralCleanseConfig(), seed=seed, progress=progress
            )
            finding = detect(inversion, model.classes, PLAIN)
        else:
            budget = dataclasses.replace(BUDGETS[config.budget], precision=config.precision)
            inversion = invert(model, images, targets, "patch", budget, seed=seed, map=map, progress=progress)
            finding = detect(inversion, model.classes, DetectConfig())
        if len(targets) < len(model.classes):
            finding = _partial(finding, len(targets), len(model.classes))
    return Scan(
        finding=finding,
        backdoors=_backdoors(finding, inversion) if inversion else (),
        family="patch",
        origin=model.origin,
        classes=model.classes,
        image_shape=model.image_shape,
        data_path=images.path,
        data_sha256=images.sha256,
        images=len(images),
        accuracy=accuracy,
        recalls=tuple(recalls.tolist()),
        cost=Cost(
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu_began,
            image_passes=len(images) + (inversion.image_passes if inversion else 0),
            device=str(model.device),
            precision=inversion.precision if inversion else "fp32",
        ),
        seed=seed,
        config={**dataclasses.asdict(config), "classes": list(targets)},
    )


def _check(model: Classifier, images: Images, targets: tuple[int, ...]) -> None:
    if images.shape != model.image_shape:
        got, wanted = ("×".join(map(str, s)) for s in (images.shape, model.image_shape))
        raise DataError(f"the images are {got}, the model takes {wanted}; use --size and --channels")
    if int(images.y.max()) >= len(model.classes):
        raise DataError(
            f"a label is {int(images.y.max())}, the model has {len(model.classes)} classes (0 to "
            f"{len(model.classes) - 1}); check that data and model belong together"
        )
    if len(images.y.unique()) < 2:
        raise DataError("all images have one label; give images of at least two classes")
    unknown = [c for c in targets if not 0 <= c < len(model.classes)]
    if unknown:
        raise UsageError(f"class {unknown[0]} does not exist; the model has 0 to {len(model.classes) - 1}")


def _predictions(model: Classifier, images: Images) -> Int[Tensor, " n"]:
    """As `measure.predictions`, for a model that is not known yet to return numbers."""
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.x.split(measure.BATCH)])
    if bad := int((~logits.isfinite()).any(1).sum()):
        raise ModelError(
            f"the network returns NaN or infinity for {bad} of {len(images)} images; "
            "check its weights, --mean and --std"
        )
    return logits.argmax(1)


def _near_chance(accuracy: float, images: Images) -> str:
    """A sentence if the model hardly does better on this data than always naming the commonest class."""
    chance = images.y.bincount().amax().item() / len(images)
    if accuracy >= chance + 0.2 * (1 - chance):
        return ""
    return (
        f"clean accuracy is {accuracy:.1%}, near the {chance:.1%} of always naming the commonest class: "
        "wrong preprocessing, class order or data; check --mean, --std, --size and the order of the classes"
    )


def _partial(finding: Finding, scanned: int, classes: int) -> Finding:
    """Some classes were left out: nothing found among the others does not make a model clean."""
    reason = f"only {scanned} of {classes} classes were scanned"
    verdict = "inconclusive" if finding.verdict == "clean" else finding.verdict
    return dataclasses.replace(finding, verdict=verdict, reasons=(*finding.reasons, reason))


def _backdoors(finding: Finding, inversion: Inversion) -> tuple[Backdoor, ...]:
    if finding.verdict == "clean":
        return ()
    return tuple(
        Backdoor(
            target=suspect.index,
            sources="all",
            family=inversion.family,
            trigger=inversion.trigger[inversion.targets.index(suspect.index)],
            size=suspect.size,
            success=suspect.success,
            probability=suspect.evidence["probability"],
        )
        for suspect in finding.suspects
    )
