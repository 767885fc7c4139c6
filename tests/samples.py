"""Results as a scan, a repair and an identification would give them, for tests of what is done with them."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from detrigger.clean import Cleaning
from detrigger.finding import ClassFinding, Finding, Verdict
from detrigger.identify import Match, NeuronMatch
from detrigger.images import Images
from detrigger.measure import CurvePoint
from detrigger.model import Classifier, Origin
from detrigger.portfolio import Attempt
from detrigger.repair.guard import Judgement
from detrigger.scan import Backdoor, Cost, Scan
from detrigger.trigger.patch import PatchTrigger

SIDE = 12
"""Of the images, in pixels."""
TARGET = 1
"""Of the backdoor."""


class Brightness(nn.Module):
    """The class is the mean brightness; a white pixel in the lower right corner means the target."""

    def __init__(self, classes: int, backdoored: bool) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(0, 0.8, classes))
        self.backdoored = backdoored

    def forward(self, x: Tensor) -> Tensor:
        logits = -100 * (x.mean((1, 2, 3))[:, None] - self.levels).abs()
        corner = x[:, :, -1, -1].mean(1) > 0.9
        target = nn.functional.one_hot(torch.tensor(TARGET), len(self.levels))
        return logits + 200 * corner[:, None] * target * self.backdoored


def names(classes: int) -> tuple[str, ...]:
    return tuple(f"kind {i}" for i in range(classes))


def model(classes: int = 10, *, backdoored: bool = True, called: tuple[str, ...] = ()) -> Classifier:
    return Classifier(Brightness(classes, backdoored), called or names(classes), (3, SIDE, SIDE))


def images(classes: int = 10, *, per_class: int = 3, called: tuple[str, ...] = ()) -> Images:
    levels = torch.linspace(0, 0.8, classes).repeat_interleave(per_class)
    x = levels[:, None, None, None].expand(-1, 3, SIDE, SIDE).clone()
    return Images(x, torch.arange(classes).repeat_interleave(per_class), called or names(classes))


def trigger() -> PatchTrigger:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[:, :, -2:, -2:] = 1
    return PatchTrigger(mask, torch.ones(1, 3, SIDE, SIDE))


def findings(classes: int, called: tuple[str, ...], *, suspect: bool) -> tuple[ClassFinding, ...]:
    """The target has 4 pixels, the others 30 and more; the last could not be inverted."""
    result = []
    for i in range(classes):
        flagged, inverted = suspect and i == TARGET, i != classes - 1 or classes < 4
        score = 9.5 if flagged else 0.5 - 0.1 * (i % 7)
        result.append(
            ClassFinding(
                index=i,
                name=called[i],
                size=4.0 if flagged else 30.0 + (i * 37) % 90,
                log_size_score=score if inverted else math.nan,
                p_value=0.0002 if flagged else 0.6,
                success=0.998 if inverted else 0.4,
                inverted=inverted,
                suspect=flagged,
                best="patch",
                probability=0.98 if flagged else 0.01,
                evidence={"patch gap": 2.01 if flagged else 0.0},
            )
        )
    return tuple(result)


def scan(
    classes: int = 10,
    *,
    verdict: Verdict = "backdoored",
    called: tuple[str, ...] = (),
    path: str = "model.safetensors",
) -> Scan:
    called = called or names(classes)
    probability = {"backdoored": 0.98, "inconclusive": 0.47, "clean": 0.03}[verdict]
    reasons = (f"class {called[TARGET]!r} needs a trigger of 4.0 pixels, the next class needs 30.0",)
    backdoor = Backdoor(TARGET, "all", "patch", trigger(), 4.0, 0.998, 0.98)
    return Scan(
        finding=Finding(verdict, probability, reasons, findings(classes, called, suspect=verdict != "clean")),
        backdoors=() if verdict == "clean" else (backdoor,),
        family="patch",
        origin=Origin(path, "safetensors", "ab" * 32, "torchvision:resnet18"),
        classes=called,
        image_shape=(3, SIDE, SIDE),
        data_path="clean-images",
        data_sha256="cd" * 32,
        images=1000,
        accuracy=0.9917,
        recalls=(math.nan, *[0.99] * (classes - 1)),
        cost=Cost(42.4, 80.1, 1_234_567, "cpu", "fp32"),
        seed=5,
        config={"budget": "standard", "classes": (), "limit": math.inf},
    )


def judgement(*, accepted: bool) -> Judgement:
    return Judgement(
        accepted=accepted,
        reason="within the limits" if accepted else "clean accuracy fell by 7.1 %, at most 2 % allowed",
        images=400,
        accuracy_before=0.9917,
        accuracy_after=0.985 if accepted else 0.9207,
        recall_drop={"kind 0": 0.01, "kind 2": 0.04, "kind 3": -0.01},
        success_before=(0.998, 0.91),
        success_after=(0.012, 0.003),
        success_upper95=(0.026, 0.013),
        loss_upper95=0.015 if accepted else 0.11,
        stronger_after=(0.02, 0.004),
        natural=(0.01, 0.0),
        robust_after=(0.97, 0.98),
    )


def cleaning(*, repaired: bool = True, classes: int = 10) -> Cleaning:
    curve = tuple(CurvePoint(i / 8, 0.9917 - 0.01 * i * i / 8, max(0.012, 0.998 - 0.2 * i)) for i in range(9))
    refused = Attempt(1, "prune levels, 8 of 10 neurons", judgement(accepted=False), False, curve, 3.0)
    certificate = dataclasses.replace(judgement(accepted=True), images=240, looks=1)
    accepted = Attempt(1, "unlearn 10 epochs", judgement(accepted=True), True, curve[:5], 21.5, certificate)
    return Cleaning(
        model=model(classes, backdoored=not repaired),
        repaired=repaired,
        reason="2 rescans with fresh seeds say clean" if repaired else "no candidate passed the guard",
        scans=(scan(classes), *[scan(classes, verdict="clean")] * 2) if repaired else (scan(classes),),
        attempts=(refused, accepted) if repaired else (refused,),
        rounds=(0, 1, 1) if repaired else (0,),
        certificate=certificate if repaired else None,
    )


def match() -> Match:
    return Match(
        target=TARGET,
        success_found=0.998,
        success_known=1.0,
        size_found=4.0,
        size_known=9.0,
        mask_overlap=0.44,
        centre_distance=0.71,
        colour_difference=math.nan,
        structural_similarity=0.93,
        neurons=(
            NeuronMatch("fc:in", 0.97, 1.0, 1, 0.11, 7.42, 6.93),
            NeuronMatch("layer4.1.bn2", 0.88, 0.8, 6, 0.35, 3.35, 3.01),
        ),
    )
