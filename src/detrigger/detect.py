"""Evidence per class in, verdict out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.invert import Inversion
from detrigger.trigger import FAMILIES

Verdict = Literal["clean", "backdoored", "inconclusive"]


@dataclass(frozen=True)
class ClassFinding:
    """What is known about one class as a possible target."""

    index: int
    name: str
    size: float
    """Of the smallest trigger found, in the unit of its family."""
    log_size_score: float
    """Robust outlier index of log size: how many spreads below the median; large is suspect."""
    p_value: float
    """Chance that a clean model of this many classes has any class with such a score."""
    success: float
    """Attack success rate of the synthesised trigger on held-out images, in [0, 1]."""
    inverted: bool
    """A trigger with enough success was found."""
    suspect: bool
    evidence: dict[str, float] = field(default_factory=dict)
    """Further figures by name."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one model and the reasons for it."""

    verdict: Verdict
    probability: float
    """That the model is backdoored, in [0, 1]."""
    reasons: tuple[str, ...]
    """One sentence each, the decisive one first."""
    classes: tuple[ClassFinding, ...]

    @property
    def suspects(self) -> tuple[ClassFinding, ...]:
        """Classes flagged as targets, most suspect first."""
        return tuple(sorted((c for c in self.classes if c.suspect), key=lambda c: -c.log_size_score))


@dataclass(frozen=True)
class DetectConfig:
    """From sizes to a verdict. The plain rule of Wang et al. (2019) is `PLAIN`."""

    log_sizes: bool = True
    """Compare logarithms of sizes; Wang et al. (2019) compare the sizes themselves."""
    inverted: float = 0.75
    """Success on held-out images from which a class counts as inverted; 0 to 1."""
    spread_floor: float = 0.25
    """Least spread, in log size (times the median, for plain sizes); keeps equal sizes from alarming."""
    index_weight: float = 2.0
    """Of the outlier index in the log-odds of a backdoor."""
    gap_weight: float = 1.5
    """Of the log gap to the next larger class in the log-odds of a backdoor."""
    intercept: float = -7.8
    """Log-odds of a backdoor at index 0 and gap 0."""
    alarm: float = 0.6
    """Probability from which the verdict is `backdoored`; 0 to 1."""
    doubt: float = 0.35
    """Probability from which a class is suspect and the verdict at least `inconclusive`; 0 to 1."""


PLAIN = DetectConfig(
    log_sizes=False,
    spread_floor=1e-3,
    index_weight=10.0,
    gap_weight=0.0,
    intercept=-20.0,
    alarm=0.5,
    doubt=0.5,
)
"""The published rule: alarm at a plain outlier index of 2 or more, and no doubt below."""


def detect(inversion: Inversion, names: tuple[str, ...], config: DetectConfig) -> Finding:
    """Verdict on the sizes of the triggers synthesised for k classes.

    A class that could not be inverted is treated as needing the largest size seen. With one class nothing
    can be compared; with two, the median lies between them and only the gap speaks; equal sizes have index 0.
    """
    inverted = inversion.success >= config.inverted
    size = torch.where(inverted, inversion.size, inversion.size.amax()).double()
    index = outlier_index(size, log=config.log_sizes, floor=config.spread_floor)
    gap = gaps(size)
    chance = family_wise_p_values(index, log=config.log_sizes, floor=config.spread_floor)
    odds = config.intercept + config.index_weight * index + config.gap_weight * gap
    probability = torch.where(inverted, odds.sigmoid(), 0.0)
    classes = tuple(
        ClassFinding(
            index=t,
            name=names[t],
            size=inversion.size[i].item(),
            log_size_score=index[i].item(),
            p_value=chance[i].item(),
            success=inversion.success[i].item(),
            inverted=bool(inverted[i]),
            suspect=probability[i].item() >= config.doubt,
            evidence={"gap": gap[i].item(), "probability": probability[i].item()},
        )
        for i, t in enumerate(inversion.targets)
    )
    return _judge(classes, probability.amax().item(), FAMILIES[inversion.family].unit(), config)


def _judge(classes: tuple[ClassFinding, ...], probability: float, unit: str, config: DetectConfig) -> Finding:
    if len(classes) < 2:
        return Finding("inconclusive", 0.5, ("one class alone cannot be compared with others",), classes)
    failed = [c for c in classes if not c.inverted]
    if len(failed) == len(classes):
        reason = "no class could be inverted: no trigger of this kind sends images to any class"
        return Finding("inconclusive", 0.5, (reason,), classes)
    first = max(classes, key=lambda c: c.evidence["probability"])
    others = sorted(c.size for c in classes if c is not first and c.inverted)
    against = f"the next class needs {others[0]:.1f}" if others else "no other class could be inverted"
    reasons = [
        f"class {first.name!r} needs a trigger of {first.size:.1f} {unit}, {against}; "
        f"outlier index {first.log_size_score:.1f}"
    ]
    if failed:
        reasons.append(f"{len(failed)} of {len(classes)} classes could not be inverted")
    if len(classes) == 2:
        reasons.append("with two classes only the gap between their sizes can be judged")
    verdict: Verdict = (
        "backdoored"
        if probability >= config.alarm
        else "inconclusive"
        if probability >= config.doubt
        else "clean"
    )
    return Finding(verdict, probability, tuple(reasons), classes)


def outlier_index(size: Float[Tensor, " k"], *, log: bool, floor: float) -> Float[Tensor, " k"]:
    """How many spreads each size lies below the median: (median - size) / (1.4826 MAD).

    True medians (the mean of the middle two for an even number). The spread is at least `floor`, which is
    in log units, or a share of the median for plain sizes. Wang et al. (2019), section IV-B.
    """
    value = size.log() if log else size
    middle = value.quantile(0.5)
    least = floor if log else floor * middle.abs()
    spread = torch.clamp_min(1.4826 * (value - middle).abs().quantile(0.5), least)
    return (middle - value) / spread


def gaps(size: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Per class, the largest step up in log size that separates it, with the classes smaller than it, from
    the rest: the largest of log s_(j+1) - log s_(j) over ranks j from its own to a third of the classes.

    Zero for classes that are not among the smallest third. Several targets share the step above them.
    """
    order = size.argsort()
    steps = size[order].log().diff()
    result = torch.zeros_like(size)
    last = max(1, len(size) // 3)
    for rank in range(min(last, len(steps))):
        result[order[rank]] = steps[rank:last].amax()
    return result


def family_wise_p_values(
    index: Float[Tensor, " k"], *, log: bool, floor: float, draws: int = 4000
) -> Float[Tensor, " k"]:
    """Chance that any of k classes of a clean model has at least this index, sizes being log-normal.

    By simulation with a fixed seed, so it knows the number of classes; at least 1 / (draws + 1).
    The log-normal is an assumption: natural triggers make real clean models worse than that.
    """
    generator = torch.Generator().manual_seed(0)
    scale = 0.35  # spread of log sizes on clean models; matters only for plain sizes and beside the floor
    value = scale * torch.randn(draws, len(index), generator=generator, dtype=torch.float64)
    value = value if log else value.exp()
    middle = value.quantile(0.5, dim=1, keepdim=True)
    least = torch.full_like(middle, floor) if log else floor * middle.abs()
    spread = torch.maximum(1.4826 * (value - middle).abs().quantile(0.5, dim=1, keepdim=True), least)
    highest = ((middle - value) / spread).amax(1)
    return ((highest[None] >= index[:, None]).sum(1) + 1) / (draws + 1)
