"""Fitting what the verdict knows of clean models, and judging it on what it was not fitted on.

Each kind of trigger gives every class a weighted sum of few figures (`detrigger.evidence`,
`detrigger.sources`); the weights are chosen, not fitted. Fitted are, per kind, mean and spread over clean
models of the highest sum of any class, and one logistic function from the furthest of them to the probability
of a backdoor.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import softplus

from detrigger.detect import MARGIN, Calibration
from detrigger.evidence import INDEX_CAP, Terms
from detrigger.sources import EACH, EVERY, SourceTerms
from detrigger.trigger import FAMILIES

LEAST_SPREAD = 0.4
"""Spread of clean models at least: some kinds of trigger reach hardly any class of them."""
LEAST_CLEAN = 5
"""Clean models that a kind must have reached to be judged by its own mean; else the mean is 0."""
CAP = 8.0
"""Standing out further than this says no more to the calibration."""


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


@dataclass(frozen=True)
class Fitted:
    """What is fitted."""

    clean: dict[str, tuple[float, float]]
    """Per kind, mean and spread of the highest sum of clean models."""
    calibration: Calibration


def case(card: dict[str, Any], terms: dict[str, Terms], sources: SourceTerms) -> Case:
    """From a card of `bench zoo`, with the weights of those terms."""
    truth = card["truth"]
    evidence = [c["evidence"] for c in card["scan"]["classes"]]
    sums: dict[str, float] = {}
    for family in FAMILIES:
        reached = [e for e in evidence if f"{family} surprise" in e]
        if reached:
            sums[family] = max(_sum(e, family, terms[family]) for e in reached)
    for e in evidence:
        if f"{EACH} gap" in e:
            sums[EACH] = sources.gap * e[f"{EACH} gap"] + sources.effect * e[f"{EACH} effect"]
        if f"{EVERY} level" in e:
            sums[EVERY] = e[f"{EVERY} level"]
    return Case(
        f"{card['scan']['model']['sha256'][:12]} {truth['id']}",
        truth["dataset"],
        truth.get("attack") or "clean",
        truth["backdoored"],
        bool(truth.get("weak")),
        sums,
    )


def _sum(evidence: dict[str, float], family: str, terms: Terms) -> float:
    index, gap, level = (evidence[f"{family} {name}"] for name in ("score", "gap", "level"))
    weighted = terms.index * min(index, INDEX_CAP) + terms.gap * gap + terms.level * level
    return weighted + terms.margin * evidence[MARGIN]


def fit(cases: Sequence[Case]) -> Fitted:
    """Moments of the clean models, then maximum likelihood on all that are not weak; deterministic."""
    clean = {}
    for kind in (*FAMILIES, EACH, EVERY):
        sums = [c.sums[kind] for c in cases if not c.backdoored and kind in c.sums]
        known = len(sums) >= LEAST_CLEAN
        clean[kind] = (
            (statistics.fmean(sums), max(LEAST_SPREAD, statistics.stdev(sums)))
            if known
            else (0.0, LEAST_SPREAD)
        )
    counted = [c for c in cases if not (c.backdoored and c.weak)]
    far = torch.tensor([furthest(c, clean) for c in counted], dtype=torch.float64).clamp(-CAP, CAP)
    truth = torch.tensor([float(c.backdoored) for c in counted], dtype=torch.float64)
    raw = torch.tensor([-2.0, 0.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([raw], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        slope = softplus(raw[1])
        odds = raw[0] + slope * far
        value = torch.nn.functional.binary_cross_entropy_with_logits(odds, truth, reduction="sum")
        value = value + 0.1 * slope.square()  # keeps it finite where the classes separate
        value.backward()
        return value

    search.step(loss)
    return Fitted(clean, Calibration(raw[0].item(), softplus(raw[1]).item()))


def furthest(case: Case, clean: dict[str, tuple[float, float]]) -> float:
    """How far the most suspect class stands out by any kind; -CAP if none was reached."""
    return max(((s - clean[k][0]) / clean[k][1] for k, s in case.sums.items()), default=-CAP)


def probability(case: Case, fitted: Fitted) -> float:
    """That the model is backdoored."""
    odds = fitted.calibration.intercept + fitted.calibration.slope * furthest(case, fitted.clean)
    return torch.tensor(odds, dtype=torch.float64).sigmoid().item()


def left_out(cases: Sequence[Case], *, by: Literal["dataset", "attack", "nothing"]) -> dict[str, float]:
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
        fitted = fit([c for c in cases if by == "nothing" or c.id not in inside])
        found |= {c.id: probability(c, fitted) for c in group}
    return found


def coefficients(
    fitted: Fitted, cases: Sequence[Case], terms: dict[str, Terms], sources: SourceTerms, fitted_on: str
) -> dict[str, Any]:
    """The content of coefficients.json. What no case shows of single sources stays as it was."""
    bad = sum(c.backdoored for c in cases)
    told = {k: tuple(round(v, 3) for v in value) for k, value in fitted.clean.items()}
    families = {
        f: dataclasses.asdict(dataclasses.replace(terms[f], clean=told[f][0], spread=told[f][1]))
        for f in FAMILIES
    }
    each = told[EACH] if any(EACH in c.sums for c in cases) else (sources.clean, sources.spread)
    (clean, spread), (every_clean, every_spread) = each, told[EVERY]
    fitted_sources = dataclasses.replace(
        sources, clean=clean, spread=spread, every_clean=every_clean, every_spread=every_spread
    )
    return {
        "fitted_on": f"{fitted_on}: {len(cases) - bad} clean and {bad} backdoored models",
        "families": families,
        "sources": dataclasses.asdict(fitted_sources),
        "calibration": {k: round(v, 3) for k, v in dataclasses.asdict(fitted.calibration).items()},
    }
