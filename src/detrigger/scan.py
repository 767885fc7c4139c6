"""Synthesise, judge, measure again: one model in, one report out."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from detrigger import fast, measure
from detrigger.budgets import Budget
from detrigger.detect import PLAIN, detect
from detrigger.errors import DataError, ModelError, UsageError
from detrigger.evidence import Natural, clean_answers
from detrigger.finding import Finding
from detrigger.heats import Map, Progress, serial, silent
from detrigger.images import Images
from detrigger.invert import Inversion
from detrigger.model import Classifier, Origin
from detrigger.neural_cleanse import NeuralCleanseConfig, neural_cleanse
from detrigger.search import plan, search
from detrigger.sources import EACH, EVERY
from detrigger.trigger import Trigger

BETTER_ORDER = 0.1
"""Clean accuracy that another order of the classes must add to be proposed."""
SHOWN = 20
"""Names of classes in that proposal."""


@dataclass(frozen=True)
class ScanConfig:
    """What to scan and how hard."""

    budget: Budget = "standard"
    """How much work: quick about 0.3, standard 1, thorough 7 times the image passes with ten classes, for
    triggers of single source classes."""
    precision: fast.Precision = "fp32"
    """Of the search: `auto` is bf16 where that is measured to be faster, and a measurement may come out
    otherwise next time."""
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
    natural: Natural | None = field(default=None, repr=False)
    """What a control showed, if one was asked."""


def scan(
    model: Classifier,
    images: Images,
    config: ScanConfig = ScanConfig(),
    *,
    targets: tuple[int, ...] = (),
    natural: Natural | None = None,
    seed: int = 0,
    map: Map = serial,
    progress: Progress = silent,
) -> Scan:
    """Look for a backdoor in `model`, given clean labelled images (a few per class).

    `targets` are the classes to try as targets, all by default; `natural` is what a control of a like model
    showed in an earlier scan with like images and the same targets, which saves asking another.
    Raises DataError for images that do not fit, UsageError for classes that do not exist, ModelError for a
    network whose outputs are not finite.
    """
    _check(model, images, targets)
    began, cpu_began = time.perf_counter(), time.process_time()
    logits = _logits(model, images)
    predicted = logits.argmax(1)
    accuracy = (predicted == images.y).float().mean().item()
    recalls = measure.recalls(predicted, images.y, len(model.classes))
    targets = tuple(dict.fromkeys(targets)) or tuple(range(len(model.classes)))
    inversions: dict[str, Inversion] = {}
    passes = 0
    if doubt := _near_chance(accuracy, images):
        finding = Finding("inconclusive", 0.5, (doubt,), ())
    elif config.synthesis == "neural-cleanse":
        published = NeuralCleanseConfig()
        inversion = neural_cleanse(model, images, targets, published, seed=seed, progress=progress)
        inversions = {inversion.family: inversion}
        passes = inversion.image_passes
        finding = detect(inversions, model.classes, model.image_shape, PLAIN)
    else:
        found = search(
            model,
            images,
            plan(model, images, targets, config.budget, config.precision),
            clean=clean_answers(logits, images.y),
            held=config.budget != "quick",
            natural=natural,
            seed=seed,
            map=map,
            progress=progress,
        )
        finding, inversions, passes = found.finding, found.inversions, found.image_passes
        natural = found.natural
    if order := _other_order(predicted, accuracy, images, model):
        finding = dataclasses.replace(finding, reasons=(*finding.reasons, order))
    if inversions and len(targets) < len(model.classes):
        finding = _partial(finding, len(targets), len(model.classes))
    return Scan(
        finding=finding,
        backdoors=_backdoors(finding, inversions, model, images),
        family=finding.family,
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
            image_passes=len(images) + passes,
            device=str(model.device),
            precision=next(iter(inversions.values())).precision if inversions else "fp32",
        ),
        seed=seed,
        config={**dataclasses.asdict(config), "classes": list(targets)},
        natural=natural,
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


def _logits(model: Classifier, images: Images) -> Float[Tensor, "n classes"]:
    """Of a model that is not known yet to return numbers."""
    logits = measure.logits(model, images.x)
    if bad := int((~logits.isfinite()).any(1).sum()):
        raise ModelError(
            f"the network returns NaN or infinity for {bad} of {len(images)} images; "
            "check its weights, --mean and --std"
        )
    return logits


def _near_chance(accuracy: float, images: Images) -> str:
    """A sentence if the model hardly does better on this data than always naming the commonest class."""
    chance = images.y.bincount().amax().item() / len(images)
    if accuracy >= chance + 0.2 * (1 - chance):
        return ""
    return (
        f"clean accuracy is {accuracy:.1%}, near the {chance:.1%} of always naming the commonest class: "
        "wrong preprocessing, class order or data; check --mean, --std, --size and the order of the classes"
    )


def _other_order(predicted: Int[Tensor, " n"], accuracy: float, images: Images, model: Classifier) -> str:
    """A sentence if another order of the classes explains the predictions clearly better."""
    order, better = measure.order_of_classes(predicted, images.y, len(model.classes))
    if better <= accuracy + BETTER_ORDER:
        return ""
    names = [model.classes[order.index(output)] for output in range(len(order))]
    more = f" and {len(names) - SHOWN} more, from a file," if len(names) > SHOWN else ""
    return (
        f"clean accuracy would be {better:.1%} in place of {accuracy:.1%} if the model's outputs were the "
        f"classes in another order; give --class-order {','.join(names[:SHOWN])}{more} if that is right"
    )


def _partial(finding: Finding, scanned: int, classes: int) -> Finding:
    """Some classes were left out: nothing found among the others does not make a model clean."""
    reason = f"only {scanned} of {classes} classes were scanned"
    verdict = "inconclusive" if finding.verdict == "clean" else finding.verdict
    return dataclasses.replace(finding, verdict=verdict, reasons=(*finding.reasons, reason))


def _backdoors(
    finding: Finding,
    inversions: dict[str, Inversion],
    model: Classifier,
    images: Images,
) -> tuple[Backdoor, ...]:
    if finding.verdict == "clean":
        return ()
    found = []
    for suspect in finding.suspects:
        inversion = inversions[suspect.best]
        i = inversion.targets.index(suspect.index)
        sources: Literal["all"] | tuple[int, ...] = "all"
        if suspect.best == EVERY:
            source = int(suspect.evidence[f"{EVERY} source"])
            i = inversion.sources.index(source)
            sources = _sources(model, images, inversion.trigger[i], suspect.index) or (source,)
        if suspect.best == EACH:
            first = (suspect.index, suspect.sources[0])
            i = tuple(zip(inversion.targets, inversion.sources, strict=True)).index(first)
            sources = tuple(sorted(suspect.sources))
        found.append(
            Backdoor(
                target=suspect.index,
                sources=sources,
                family=inversion.family,
                trigger=inversion.trigger[i],
                size=inversion.size[i].item(),
                success=inversion.success[i].item(),
                probability=suspect.probability,
            )
        )
    return tuple(found)


def _sources(model: Classifier, images: Images, trigger: Trigger, target: int) -> tuple[int, ...]:
    """Classes of which the trigger sends at least half of the images to the target."""
    hit = measure.hits(model, images, trigger, target)
    labels = images.y[images.y != target]
    return tuple(c for c in labels.unique().tolist() if hit[labels == c].float().mean() >= 0.5)
