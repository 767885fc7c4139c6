"""Fitting what the verdict knows of clean models, and judging it on what it was not fitted on.

Each kind of trigger gives every class a weighted sum of few figures (`detrigger.evidence`,
`detrigger.sources`); the weights are chosen, not fitted. Fitted are, per kind, mean and spread over clean
models of the highest sum of any class (of few models, the highest alone), how much further they stand out on
larger images, and one logistic function from the furthest of them to the probability
of a backdoor; another for models of which a control was asked (`detrigger.control`), from what that leaves.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import softplus

from detrigger.coefficients import Calibration, Coefficients
from detrigger.evidence import FURTHEST, HELD, INDEX_CAP, LARGEST, NaturalTerms, Terms
from detrigger.finding import CONTROL, MARGIN
from detrigger.sources import EACH, EVERY, SourceTerms
from detrigger.trigger import FAMILIES

TWO = f"{EACH}, two"
"""The second pair of a target."""
LEAST_SPREAD = 0.4
"""Spread of clean models at least: some kinds of trigger reach hardly any class of them."""
LEAST_CLEAN = 5
"""Clean models that a kind must have reached to have a mean; else it is their highest sum, and 0 of none."""
LIKE = 2.0
"""Weight of the squared differences between the calibration of models with a control and that of all."""


@dataclass(frozen=True)
class Case:
    """One model: its figures, from a report without the truth, and the truth."""

    id: str
    dataset: str
    attack: str
    backdoored: bool
    weak: bool
    sums: dict[str, float]
    """Per kind of evidence, the highest weighted sum of any class; kinds that reached none are left out."""
    classes: tuple[tuple[dict[str, float], float], ...] = ()
    """If a control was asked: for each class, its sums, and how far it stands out in the control."""
    larger: bool = False
    """Its images are larger than a control is asked for."""


@dataclass(frozen=True)
class Known:
    """What is known of clean models."""

    sums: dict[str, tuple[float, float]]
    """Per kind, mean and spread of the highest sum."""
    larger: float = 0.0
    """How much further they stand out on larger images, by families; in spreads."""

    def far(self, case: Case, kind: str, value: float) -> float:
        """How far a sum of that kind stands out."""
        mean, spread = self.sums[kind]
        return (value - mean) / spread - (self.larger if case.larger and kind in FAMILIES else 0.0)


@dataclass(frozen=True)
class Fitted:
    """What is fitted."""

    clean: Known
    calibration: Calibration
    control: NaturalTerms
    """Its weight is chosen, not fitted."""


def case(card: dict[str, Any], known: Coefficients) -> Case:
    """From a card of `bench zoo`, with the weights of those coefficients."""
    truth = card["truth"]
    evidence = [c["evidence"] for c in card["scan"]["classes"]]
    sums = [_sums(e, known) for e in evidence]
    highest: dict[str, float] = {}
    for row in sums:
        highest |= {kind: max(value, highest.get(kind, value)) for kind, value in row.items()}
    controlled = any(CONTROL in e for e in evidence)
    return Case(
        f"{card['scan']['model']['sha256'][:12]} {truth['id']}",
        truth["dataset"],
        truth.get("attack") or "clean",
        truth["backdoored"],
        bool(truth.get("weak")),
        highest,
        tuple((row, e[CONTROL]) for row, e in zip(sums, evidence, strict=True)) if controlled else (),
        max(card["scan"]["model"]["image_shape"][1:]) > LARGEST,
    )


def _sums(evidence: dict[str, float], known: Coefficients) -> dict[str, float]:
    """Weighted sum of one class by each kind of evidence that reached it."""
    sums = {f: _sum(evidence, f, known.families[f]) for f in FAMILIES if f"{f} surprise" in evidence}
    if f"{EACH} ratio" in evidence:
        sums[EACH] = evidence[f"{EACH} ratio"] + evidence[f"{EACH} below"]
    if f"{EACH} second" in evidence:
        sums[TWO] = evidence[f"{EACH} second"]
    if f"{EVERY} level" in evidence:
        sums[EVERY] = evidence[f"{EVERY} level"]
    return sums


def _sum(evidence: dict[str, float], family: str, terms: Terms) -> float:
    index, gap, level = (evidence[f"{family} {name}"] for name in ("score", "gap", "level"))
    weighted = terms.index * min(index, INDEX_CAP) + terms.gap * gap + terms.level * level
    return weighted + terms.margin * evidence[MARGIN]


def fit(cases: Sequence[Case], control: NaturalTerms) -> Fitted:
    """Moments of the clean models, then maximum likelihood on all that are not weak; deterministic.

    Those of which a control was asked are also fitted by themselves, with the weight of `control`; if clean
    or backdoored ones are missing, it stays as it was.
    """
    moments = {}
    for kind in (*FAMILIES, EACH, TWO, EVERY):
        sums = [c.sums[kind] for c in cases if not c.backdoored and kind in c.sums]
        moments[kind] = (
            (statistics.fmean(sums), max(LEAST_SPREAD, statistics.stdev(sums)))
            if len(sums) >= LEAST_CLEAN
            else (max(sums, default=0.0), LEAST_SPREAD)
        )
    clean = Known(moments, _larger(cases, Known(moments)))
    counted = [c for c in cases if not (c.backdoored and c.weak)]
    calibration = _calibrated([furthest(c, clean) for c in counted], counted)
    asked = [c for c in counted if c.classes and not c.larger]
    if len({c.backdoored for c in asked}) == 2:
        odds = _calibrated([left(c, clean, control.weight)[0] for c in asked], asked, like=calibration)
        control = NaturalTerms(control.weight, odds.intercept, odds.slope)
    return Fitted(clean, calibration, control)


def _larger(cases: Sequence[Case], clean: Known) -> float:
    """How much further clean models stand out by families on larger images than on others; 0 if of either
    too few are known."""
    far: dict[bool, list[float]] = {True: [], False: []}
    for c in cases:
        by_family = [clean.far(c, k, s) for k, s in c.sums.items() if k in FAMILIES]
        if by_family and not c.backdoored:
            far[c.larger].append(max(by_family))
    if min(len(values) for values in far.values()) < LEAST_CLEAN:
        return 0.0
    return max(0.0, statistics.fmean(far[True]) - statistics.fmean(far[False]))


def _calibrated(far: Sequence[float], cases: Sequence[Case], like: Calibration | None = None) -> Calibration:
    """From how far each model's most suspect class stands out; few cases are held `like` another."""
    reach = torch.tensor(far, dtype=torch.float64).clamp(-FURTHEST, FURTHEST)
    truth = torch.tensor([float(c.backdoored) for c in cases], dtype=torch.float64)
    raw = torch.tensor([-2.0, 0.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([raw], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        slope = softplus(raw[1])
        odds = raw[0] + slope * reach
        value = torch.nn.functional.binary_cross_entropy_with_logits(odds, truth, reduction="sum")
        if like:
            value = value + LIKE * ((raw[0] - like.intercept).square() + (slope - like.slope).square())
        value = value + 0.1 * slope.square()  # keeps it finite where the classes separate
        value.backward()
        return value

    search.step(loss)
    return Calibration(raw[0].item(), softplus(raw[1]).item())


def furthest(case: Case, clean: Known) -> float:
    """How far the most suspect class stands out by any kind; -FURTHEST if none was reached."""
    return max((clean.far(case, k, s) for k, s in case.sums.items()), default=-FURTHEST)


def left(case: Case, clean: Known, weight: float) -> tuple[float, float]:
    """The same, less what a control shows of each class: by families it was searched for, and by others."""

    def far(*, held: bool) -> float:
        return max(
            (
                min(clean.far(case, k, s), FURTHEST) - (weight * natural if k in FAMILIES else 0.0)
                for sums, natural in case.classes
                for k, s in sums.items()
                if (k in HELD) == held
            ),
            default=-FURTHEST,
        )

    return far(held=True), far(held=False)


def probability(case: Case, fitted: Fitted) -> float:
    """That the model is backdoored."""
    plain, control = fitted.calibration, fitted.control
    if case.classes:
        held, other = left(case, fitted.clean, control.weight)
        odds_of = plain if case.larger else control
        odds = max(odds_of.intercept + odds_of.slope * held, plain.intercept + plain.slope * other)
    else:
        odds = plain.intercept + plain.slope * furthest(case, fitted.clean)
    return torch.tensor(odds, dtype=torch.float64).sigmoid().item()


def left_out(
    cases: Sequence[Case], control: NaturalTerms, *, by: Literal["dataset", "attack", "nothing"]
) -> dict[str, float]:
    """Probability of every model, fitted without its data set, without its attack, or on all.

    Without its attack: clean models have none, so they are left out in as many parts as there are attacks.
    """
    groups: dict[str, list[Case]] = {}
    attacks = sorted({c.attack for c in cases if c.backdoored})
    clean = 0
    for c in cases:
        name = {"dataset": c.dataset, "attack": c.attack, "nothing": ""}[by]
        if by == "attack" and not c.backdoored:
            name, clean = attacks[clean % len(attacks)], clean + 1
        groups.setdefault(name, []).append(c)
    found: dict[str, float] = {}
    for group in groups.values():
        inside = {c.id for c in group}
        fitted = fit([c for c in cases if by == "nothing" or c.id not in inside], control)
        found |= {c.id: probability(c, fitted) for c in group}
    return found


def coefficients(
    fitted: Fitted, cases: Sequence[Case], known: Coefficients, fitted_on: str
) -> dict[str, Any]:
    """The content of coefficients.json. What no case shows of single sources stays as it was."""
    bad = sum(c.backdoored for c in cases)
    told = {k: tuple(round(v, 3) for v in value) for k, value in fitted.clean.sums.items()}
    families = {
        f: dataclasses.asdict(dataclasses.replace(known.families[f], clean=told[f][0], spread=told[f][1]))
        for f in FAMILIES
    }
    (every_clean, every_spread), sources = told[EVERY], known.sources
    if any(EACH in c.sums for c in cases):
        (clean, spread), (two_clean, two_spread) = told[EACH], told[TWO]
        sources = SourceTerms(clean, spread, two_clean, two_spread, every_clean, every_spread)
    fitted_sources = dataclasses.replace(sources, every_clean=every_clean, every_spread=every_spread)
    return {
        "fitted_on": f"{fitted_on}: {len(cases) - bad} clean and {bad} backdoored models",
        "families": families,
        "sources": dataclasses.asdict(fitted_sources),
        "calibration": {k: round(v, 3) for k, v in dataclasses.asdict(fitted.calibration).items()},
        "control": {k: round(v, 3) for k, v in dataclasses.asdict(fitted.control).items()},
        "larger": round(fitted.clean.larger, 3),
    }
