"""Fitting the terms of the verdict, and judging them on what they were not fitted on.

The probability of a backdoor is a noisy or over kinds of trigger, each a logistic function of few terms
(`detrigger.detect`, `detrigger.pairs`). All terms are fitted at once by maximum likelihood on models whose
truth is known: of a backdoored model the figures of its targets count, of a clean one those of its most
suspect class. Slopes cannot be negative, and are held small by a penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from detrigger.detect import INDEX_CAP
from detrigger.pairs import PAIR
from detrigger.trigger import FAMILIES

SHRINK = 0.02
"""Penalty per squared slope, beside the mean loss of a model."""
STEPS = 600
SPECIFIC, EVERY = "source-specific", "all-to-all"


@dataclass(frozen=True)
class Case:
    """One model: its figures, from a report without the truth, and the truth."""

    id: str
    dataset: str
    attack: str
    backdoored: bool
    figures: dict[str, Float[Tensor, "candidates terms"]]
    """Per kind of evidence, one row per class that counts."""


def case(card: dict[str, Any]) -> Case:
    """From a card of `bench zoo`."""
    truth = card["truth"]
    targets = {t for t in truth.get("targets") or [] if t is not None}
    classes = card["scan"]["classes"]
    counted = [c for c in classes if not truth["backdoored"] or c["index"] in targets]
    figures = {family: _rows([c["evidence"] for c in counted], family) for family in FAMILIES}
    leaders = [c for c in classes if f"{PAIR} gap" in c["evidence"]]
    for leader in leaders:
        e = leader["evidence"]
        if not truth["backdoored"] or leader["index"] in targets:
            figures[SPECIFIC] = torch.tensor([[e[f"{PAIR} gap"], e[f"{PAIR} level"]]], dtype=torch.float64)
        if not truth["backdoored"] or not targets:
            figures[EVERY] = torch.tensor([[e[f"{PAIR} matching level"]]], dtype=torch.float64)
    attack = truth.get("attack") or "clean"
    return Case(
        f"{card['scan']['model']['sha256'][:12]} {truth['id']}",
        truth["dataset"],
        attack,
        truth["backdoored"],
        figures,
    )


def _rows(evidence: Sequence[dict[str, Any]], family: str) -> Tensor:
    reached = [e for e in evidence if e.get(f"{family} probability")]
    rows = [[min(e[f"{family} score"], INDEX_CAP), e[f"{family} gap"], e[f"{family} level"]] for e in reached]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


Fitted = dict[str, Float[Tensor, " terms"]]
"""Per kind of evidence: intercept, then slopes."""


def fit(cases: Sequence[Case]) -> Fitted:
    """Maximum likelihood; the same cases give the same terms."""
    sizes = {**dict.fromkeys(FAMILIES, 3), SPECIFIC: 2, EVERY: 1}
    raw = {
        kind: torch.tensor([-4.0] + [0.0] * n, dtype=torch.float64).requires_grad_()
        for kind, n in sizes.items()
    }
    adam = torch.optim.Adam(raw.values(), lr=0.05)
    labels = torch.tensor([float(c.backdoored) for c in cases], dtype=torch.float64)
    padded = {
        kind: _padded([c.figures.get(kind, torch.zeros(0, n)) for c in cases], n) for kind, n in sizes.items()
    }
    for _ in range(STEPS):
        terms = {kind: _terms(value) for kind, value in raw.items()}
        chance = _probability(padded, terms).clamp(1e-6, 1 - 1e-6)
        loss = torch.nn.functional.binary_cross_entropy(chance, labels)
        loss = loss + SHRINK * sum(t[1:].square().sum() for t in terms.values()) / len(cases) ** 0.5
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {kind: _terms(value).detach() for kind, value in raw.items()}


def _padded(rows: Sequence[Tensor], terms: int) -> tuple[Float[Tensor, "cases rows terms"], Tensor]:
    """Rows of all cases in one tensor, and which of them are real."""
    longest = max(1, *(len(r) for r in rows))
    values = torch.zeros(len(rows), longest, terms, dtype=torch.float64)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, r in enumerate(rows):
        values[i, : len(r)], real[i, : len(r)] = r, True
    return values, real


def _probability(padded: dict[str, tuple[Tensor, Tensor]], terms: Fitted) -> Float[Tensor, " cases"]:
    none = torch.ones(())
    for kind, (values, real) in padded.items():
        odds = terms[kind][0] + values @ terms[kind][1:]
        none = none * (1 - odds.masked_fill(~real, -torch.inf).amax(1).sigmoid())
    return 1 - none


def _terms(raw: Tensor) -> Tensor:
    return torch.cat([raw[:1], softplus(raw[1:])])


def probability(case: Case, terms: Fitted) -> float:
    """That the model is backdoored."""
    padded = {kind: _padded([rows], rows.shape[1]) for kind, rows in case.figures.items()}
    return _probability(padded, terms).item()


def left_out(cases: Sequence[Case], *, by: str) -> dict[str, float]:
    """Probability of every model, by terms fitted without its `dataset` or without its `attack`.

    Without its attack: clean models have none, so they are left out in as many parts as there are attacks.
    """
    groups: dict[str, list[Case]] = {}
    attacks = sorted({c.attack for c in cases if c.backdoored})
    clean = 0
    for c in cases:
        name = c.dataset if by == "dataset" else c.attack
        if by == "attack" and not c.backdoored:
            name, clean = attacks[clean % len(attacks)], clean + 1
        groups.setdefault(name, []).append(c)
    found: dict[str, float] = {}
    for group in groups.values():
        inside = {c.id for c in group}
        terms = fit([c for c in cases if c.id not in inside])
        found |= {c.id: probability(c, terms) for c in group}
    return found


def coefficients(terms: Fitted, cases: Sequence[Case], fitted_on: str) -> dict[str, Any]:
    """The content of coefficients.json."""
    rounded = {kind: [round(v, 3) for v in value.tolist()] for kind, value in terms.items()}
    bad = sum(c.backdoored for c in cases)
    return {
        "fitted_on": f"{fitted_on}: {len(cases) - bad} clean and {bad} backdoored models",
        "families": {
            f: dict(zip(("intercept", "index", "gap", "level"), rounded[f], strict=True)) for f in FAMILIES
        },
        PAIR + "s": {
            **dict(zip(("intercept", "gap", "level"), rounded[SPECIFIC], strict=True)),
            **dict(zip(("all_intercept", "all_level"), rounded[EVERY], strict=True)),
        },
    }
