"""Evidence per class in, verdict out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.coefficients import Calibration, fitted
from detrigger.evidence import (
    FURTHEST,
    HELD,
    LARGEST,
    Clean,
    Features,
    Natural,
    NaturalTerms,
    Terms,
    features,
    surprise,
)
from detrigger.finding import CONTROL, MARGIN, ClassFinding, Finding, Verdict
from detrigger.invert import Inversion
from detrigger.outliers import family_wise_p_values
from detrigger.sources import (
    EACH,
    EVERY,
    Pairs,
    each_reason,
    each_surprise,
    every_level,
    every_reason,
    every_surprise,
    every_targets,
    pairs,
)
from detrigger.trigger import FAMILIES

BESIDE = 4
"""Classes at most that are suspect only beside another: where more stand out a little, classes differ so."""


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
    further: float = 0.3
    """Probability from which a class is suspect by a patch, once another one has raised the alarm: who plants
    one patch may plant two. Patterns, waves and filters of one backdoor show in other classes, too."""


PLAIN = DetectConfig(
    log_sizes=False,
    spread_floor=1e-3,
    terms=Terms(index=1.0, gap=0.0, level=0.0, margin=0.0, clean=2.0, spread=0.1),
    calibration=Calibration(0.0, 1.0),
    alarm=0.5,
    doubt=0.5,
    further=0.5,
)
"""The published rule: alarm at a plain outlier index of 2 or more, and no doubt below."""


def detect(
    inversions: Mapping[str, Inversion],
    names: tuple[str, ...],
    shape: tuple[int, int, int],
    config: DetectConfig,
    *,
    clean: Clean | None = None,
    natural: Natural | None = None,
) -> Finding:
    """Verdict on the sizes of the triggers synthesised for k classes, in one or more families.

    `inversions` are named by their family, or `EACH` and `EVERY` for those of sources; `clean` is what the
    model makes of clean images, without which its margins do not count. With one class nothing
    can be compared; with two, the median lies between them and mostly the gap speaks; equal sizes have index
    0. Each kind of trigger says of each class how far it stands out against clean models; the furthest
    decides. How far a class stands out in a control, in whatever family, is `natural`, and taken off; for the
    families that the control was searched for, what is left has a logistic function of its own, if the images
    are not larger than those it was fitted on. `EACH` counts only beside that of a control.
    """
    fit = fitted()
    calibration = config.calibration or fit.calibration
    found, far = _far(inversions, clean, shape, config)
    targets = found[0].inversion.targets
    near, raw, known = _near(clean, targets), far, None
    held: Calibration | NaturalTerms = calibration
    if natural and (shows := _far(natural.inversions, natural.clean, shape, config)[1]):
        known = torch.stack(list(shows.values())).amax(0).clamp(0.0, 2 * FURTHEST)
        far = {k: value.clamp_max(FURTHEST) - fit.control.weight * known for k, value in far.items()}
        held = fit.control if max(shape[1:]) <= LARGEST else calibration
    shown = max(found, key=lambda f: far[f.inversion.family].amax().item())
    sources: Pairs | None = None
    if natural and EACH in inversions and EACH in natural.inversions:
        sources = pairs(inversions[EACH], natural.inversions[EACH])
        far[EACH] = each_surprise(sources, targets, fit.sources)
    if EVERY in inversions:
        far[EVERY] = every_surprise(inversions[EVERY], shape, targets, fit.sources)
    kinds = tuple(far)
    odds = {k: held if known is not None and k in HELD else calibration for k in kinds}
    chance = torch.stack([(odds[k].intercept + odds[k].slope * far[k]).sigmoid() for k in kinds])
    chances = [dict(zip(kinds, column, strict=True)) for column in chance.T.tolist()]
    best = chance.argmax(0)
    probability = chance.amax().item()
    suspects = _suspects(kinds, chance, config)
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
            suspect=suspects[i],
            best=kinds[int(best[i])],
            probability=chance[best[i], i].item(),
            sources=sources.named(target, fit.sources) if sources and kinds[int(best[i])] == EACH else (),
            evidence={MARGIN: near[i].item()}
            | _family_evidence(found, raw, chances[i], i)
            | ({} if known is None else {CONTROL: known[i].item()})
            | _source_evidence(inversions, sources, shape, target, chances[i]),
        )
        for i, target in enumerate(targets)
    )
    finding = _judge(classes, probability, shown, inversions, sources, names, config)
    if known is None:
        return finding
    reason = _control_reason(raw, known, tuple(names[t] for t in targets))
    return dataclasses.replace(finding, reasons=(*finding.reasons[:1], reason, *finding.reasons[1:]))


def _suspects(kinds: tuple[str, ...], chance: Float[Tensor, "kinds k"], config: DetectConfig) -> list[bool]:
    """Of k classes, by the probability that each kind of trigger gives them."""
    own, best = chance.max(0)
    sure = own >= config.alarm
    beside = ~sure & (own >= config.further) & torch.tensor([kind == "patch" for kind in kinds])[best]
    sure |= beside & sure.any() & (beside.sum() <= BESIDE)
    if own.amax() >= config.doubt:
        sure[own.argmax()] = True
    return sure.tolist()


def _far(
    inversions: Mapping[str, Inversion],
    clean: Clean | None,
    shape: tuple[int, int, int],
    config: DetectConfig,
) -> tuple[list[Features], dict[str, Float[Tensor, " k"]]]:
    """Features of each family, and how far by it each class stands out, for images of this size."""
    found = [
        features(inversion, shape, success=config.inverted, log=config.log_sizes, floor=config.spread_floor)
        for kind, inversion in inversions.items()
        if kind in FAMILIES
    ]
    near = _near(clean, found[0].inversion.targets) if found else torch.empty(0)
    fit = fitted()
    allowed = fit.larger if config.terms is None and max(shape[1:]) > LARGEST else 0.0
    return found, {
        f.inversion.family: surprise(f, near, config.terms or fit.families[f.inversion.family]) - allowed
        for f in found
    }


def _near(clean: Clean | None, targets: tuple[int, ...]) -> Float[Tensor, " k"]:
    return clean.near()[list(targets)] if clean else torch.zeros(len(targets), dtype=torch.float64)


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
    sources: Pairs | None,
    shape: tuple[int, int, int],
    target: int,
    chance: Mapping[str, float],
) -> dict[str, float]:
    evidence: dict[str, float] = {}
    if sources and (order := sources.of(target)):
        first = order[0]
        evidence |= {
            f"{EACH} source": float(inversions[EACH].sources[first]),
            f"{EACH} size": inversions[EACH].size[first].item(),
            f"{EACH} ratio": sources.ratio[first].item(),
            f"{EACH} below": sources.below[first].item(),
            **({f"{EACH} second": sources.sum[order[1]].item()} if len(order) > 1 else {}),
            f"{EACH} probability": chance[EACH],
        }
    if EVERY in inversions and target in every_targets(inversions[EVERY]):
        every = inversions[EVERY]
        sent = [i for i, t in enumerate(every.targets) if t == target]
        evidence |= {
            f"{EVERY} source": float(every.sources[max(sent, key=every.success.tolist().__getitem__)]),
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
    sources: Pairs | None,
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
        reasons.insert(0, each_reason(sources, sources.leading(top.index, fitted().sources), names))
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


def _control_reason(
    far: Mapping[str, Float[Tensor, " k"]], known: Float[Tensor, " k"], names: tuple[str, ...]
) -> str:
    """About the class that stands out most, before anything is taken off."""
    family, first = max(
        ((f, int(value.argmax())) for f, value in far.items()), key=lambda at: far[at[0]][at[1]].item()
    )
    natural = known[first].item()
    shown = f"by {natural:.1f}" if natural > 0 else "not at all"
    return (
        f"class {names[first]!r} stands out by {far[family][first].item():.1f} spreads of clean models; in a "
        f"control, which saw clean images only, {shown}"
    )


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
