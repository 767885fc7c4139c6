"""Evidence per class in, verdict out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.evidence import Clean, Features, Terms, features, surprise
from detrigger.invert import Inversion
from detrigger.outliers import family_wise_p_values
from detrigger.sources import (
    EACH,
    EVERY,
    SourceFeatures,
    SourceTerms,
    each_reason,
    each_surprise,
    every_level,
    every_reason,
    every_surprise,
    every_targets,
    source_features,
)
from detrigger.trigger import FAMILIES

Verdict = Literal["clean", "backdoored", "inconclusive"]

MARGIN = "clean margin"
"""Evidence of every class that needs no trigger."""


@dataclass(frozen=True)
class ClassFinding:
    """What is known about one class as a possible target. Figures are of the family of the whole finding."""

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
    """By any family."""
    best: str
    """Family by which it is most suspect."""
    probability: float
    """That it is a target, by that family."""
    evidence: dict[str, float] = field(default_factory=dict)
    """`clean margin`; for each family `NAME size`, `NAME success`, `NAME score`, `NAME gap`, `NAME level`,
    `NAME probability`, and `NAME surprise` if a trigger was found."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one model and the reasons for it."""

    verdict: Verdict
    probability: float
    """That the model is backdoored, in [0, 1]."""
    reasons: tuple[str, ...]
    """One sentence each, the decisive one first."""
    classes: tuple[ClassFinding, ...]
    family: str = "patch"
    """Kind of trigger in which a class stands out most; the classes' figures are of it."""

    @property
    def suspects(self) -> tuple[ClassFinding, ...]:
        """Classes flagged as targets, most suspect first."""
        return tuple(sorted((c for c in self.classes if c.suspect), key=lambda c: -c.probability))


@dataclass(frozen=True)
class Calibration:
    """From how far the model's most suspect class stands out to the log-odds of a backdoor."""

    intercept: float
    slope: float


@cache
def fitted() -> tuple[dict[str, Terms], SourceTerms, Calibration]:
    """Terms per family, those of sources and the calibration, from coefficients.json, which says whence."""
    stored = json.loads((files("detrigger") / "coefficients.json").read_text(encoding="utf-8"))
    terms = {family: Terms(**t) for family, t in stored["families"].items()}
    return terms, SourceTerms(**stored["sources"]), Calibration(**stored["calibration"])


@dataclass(frozen=True)
class DetectConfig:
    """From sizes to a verdict. The plain rule of Wang et al. (2019) is `PLAIN`."""

    log_sizes: bool = True
    """Compare logarithms of sizes; Wang et al. (2019) compare the sizes themselves."""
    inverted: float = 0.75
    """Success on held-out images from which a class counts as inverted; 0 to 1."""
    spread_floor: float = 0.25
    """Least spread, in log size (times the median, for plain sizes); keeps equal sizes from alarming."""
    terms: Terms | None = None
    """One for all families; by default those fitted per family."""
    calibration: Calibration | None = None
    """By default the fitted one."""
    alarm: float = 0.6
    """Probability from which the verdict is `backdoored`, and a class suspect; 0 to 1."""
    doubt: float = 0.4
    """Probability from which the verdict is not `clean`, and the likeliest class suspect; 0 to 1."""


PLAIN = DetectConfig(
    log_sizes=False,
    spread_floor=1e-3,
    terms=Terms(index=1.0, gap=0.0, level=0.0, margin=0.0, clean=2.0, spread=0.1),
    calibration=Calibration(0.0, 1.0),
    alarm=0.5,
    doubt=0.5,
)
"""The published rule: alarm at a plain outlier index of 2 or more, and no doubt below."""


def detect(
    inversions: Mapping[str, Inversion],
    names: tuple[str, ...],
    shape: tuple[int, int, int],
    config: DetectConfig,
    *,
    clean: Clean | None = None,
) -> Finding:
    """Verdict on the sizes of the triggers synthesised for k classes, in one or more families.

    `inversions` are named by their family, or `EACH` and `EVERY` for those of sources; `clean` is what the
    model makes of clean images, without which neither its margins nor `EACH` count. With one class nothing
    can be compared; with two, the median lies between them and mostly the gap speaks; equal sizes have index
    0. Each kind of trigger says of each class how far it stands out against clean models; the furthest
    decides.
    """
    terms, source_terms, calibration = fitted()
    calibration = config.calibration or calibration
    found = [
        features(inversion, shape, success=config.inverted, log=config.log_sizes, floor=config.spread_floor)
        for kind, inversion in inversions.items()
        if kind in FAMILIES
    ]
    targets = found[0].inversion.targets
    near = clean.near()[list(targets)] if clean else torch.zeros(len(targets), dtype=torch.float64)
    far = {f.inversion.family: surprise(f, near, config.terms or terms[f.inversion.family]) for f in found}
    shown = max(found, key=lambda f: far[f.inversion.family].amax().item())
    sources: SourceFeatures | None = None
    if EACH in inversions and clean:
        sources = source_features(inversions[EACH], shape, clean)
        far[EACH] = each_surprise(sources, inversions[EACH], targets, source_terms)
    if EVERY in inversions:
        far[EVERY] = every_surprise(inversions[EVERY], shape, targets, source_terms)
    kinds = tuple(far)
    chance = (calibration.intercept + calibration.slope * torch.stack(list(far.values()))).sigmoid()
    chances = [dict(zip(kinds, column, strict=True)) for column in chance.T.tolist()]
    best = chance.argmax(0)
    probability = chance.amax().item()
    top = int(chance.amax(0).argmax())
    p_values = family_wise_p_values(shown.index, log=config.log_sizes, floor=config.spread_floor)
    classes = tuple(
        ClassFinding(
            index=target,
            name=names[target],
            size=shown.inversion.size[i].item(),
            log_size_score=shown.index[i].item(),
            p_value=p_values[i].item(),
            success=shown.inversion.success[i].item(),
            inverted=bool(shown.inverted[i]),
            suspect=chance[best[i], i].item() >= config.alarm or (i == top and probability >= config.doubt),
            best=kinds[int(best[i])],
            probability=chance[best[i], i].item(),
            evidence={MARGIN: near[i].item()}
            | _family_evidence(found, far, chances[i], i)
            | _source_evidence(inversions, sources, shape, target, chances[i]),
        )
        for i, target in enumerate(targets)
    )
    return _judge(classes, probability, shown, inversions, sources, names, config)


def _family_evidence(
    found: list[Features], far: Mapping[str, Float[Tensor, " k"]], chance: Mapping[str, float], i: int
) -> dict[str, float]:
    evidence: dict[str, float] = {}
    for f in found:
        name, inversion = f.inversion.family, f.inversion
        evidence |= {
            f"{name} size": inversion.size[i].item(),
            f"{name} success": inversion.success[i].item(),
            f"{name} score": f.index[i].item(),
            f"{name} gap": f.gap[i].item(),
            f"{name} level": f.level[i].item(),
            f"{name} probability": chance[name],
        }
        if math.isfinite(surprising := far[name][i].item()):
            evidence[f"{name} surprise"] = surprising
    return evidence


def _source_evidence(
    inversions: Mapping[str, Inversion],
    sources: SourceFeatures | None,
    shape: tuple[int, int, int],
    target: int,
    chance: Mapping[str, float],
) -> dict[str, float]:
    evidence: dict[str, float] = {}
    if sources and target == sources.target(inversions[EACH]):
        evidence |= {
            f"{EACH} source": float(inversions[EACH].sources[sources.leading[0]]),
            f"{EACH} size": inversions[EACH].size[sources.leading[0]].item(),
            f"{EACH} gap": sources.gap,
            f"{EACH} effect": sources.effect,
            f"{EACH} probability": chance[EACH],
        }
    if EVERY in inversions and target in every_targets(inversions[EVERY]):
        every = inversions[EVERY]
        evidence |= {
            f"{EVERY} source": float(every.sources[every.targets.index(target)]),
            f"{EVERY} size": every.size[0].item(),
            f"{EVERY} level": every_level(every, shape),
            f"{EVERY} probability": chance[EVERY],
        }
    return evidence


def _judge(
    classes: tuple[ClassFinding, ...],
    probability: float,
    shown: Features,
    inversions: Mapping[str, Inversion],
    sources: SourceFeatures | None,
    names: tuple[str, ...],
    config: DetectConfig,
) -> Finding:
    family = shown.inversion.family
    if len(classes) < 2:
        reason = "one class alone cannot be compared with others"
        return Finding("inconclusive", 0.5, (reason,), classes, family)
    failed = int((~shown.inverted).sum())
    if failed == len(classes):
        reason = "no class could be inverted: no trigger of any kind sends images to any class"
        return Finding("inconclusive", 0.5, (reason,), classes, family)
    reasons = [_size_reason(classes, family)]
    if failed:
        reasons.append(f"{failed} of {len(classes)} classes could not be reached by {family} triggers")
    if len(classes) == 2:
        reasons.append("with two classes only the gap between their sizes can be judged")
    top = max(classes, key=lambda c: c.probability)
    if sources and top.best == EACH:
        reasons.insert(0, each_reason(sources, inversions[EACH], names))
    if top.best == EVERY:
        reasons.insert(0, every_reason(inversions[EVERY], names))
    verdict: Verdict = (
        "backdoored"
        if probability >= config.alarm
        else "inconclusive"
        if probability >= config.doubt
        else "clean"
    )
    return Finding(verdict, probability, tuple(reasons), classes, family)


def _size_reason(classes: tuple[ClassFinding, ...], family: str) -> str:
    first = max(classes, key=lambda c: (c.evidence[f"{family} probability"], -c.size))
    others = sorted(c.size for c in classes if c is not first and c.inverted)
    against = f"the next class needs {others[0]:.1f}" if others else "no other class could be reached so"
    kind = f"{'an' if family[0] in 'aeiou' else 'a'} {family}"
    size = f"{first.size:.1f} {FAMILIES[family].unit()}"
    return (
        f"class {first.name!r} needs {kind} trigger of {size}, {against}; "
        f"outlier index {first.log_size_score:.1f}"
    )
