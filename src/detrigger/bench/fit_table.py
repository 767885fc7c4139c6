"""How good the verdict is on models it was not fitted on, and without each of its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from rich.table import Table

from detrigger.bench.figures import area_under_curve, brier_score, detection_rate_at
from detrigger.bench.fit import Case, case, left_out
from detrigger.coefficients import Coefficients
from detrigger.detect import DetectConfig
from detrigger.evidence import NaturalTerms

Grouping = Literal["dataset", "attack", "nothing"]
GROUPINGS: tuple[Grouping, ...] = ("dataset", "attack", "nothing")
COLUMNS = ("models", "AUC", "TPR at FPR 5 %", "detected", "false alarms", "in doubt", "Brier")


def fit_tables(cards: Sequence[dict[str, Any]], known: Coefficients) -> tuple[Table, Table]:
    """Figures by what was left out while fitting; and, leaving out the data set, by what was switched off.

    What is known of larger images can come from one data set alone, so there the attack is left out.
    """
    cases = [case(card, known) for card in cards]
    fitted = _table("left out")
    for by in GROUPINGS:
        fitted.add_row(by, *_figures(cases, known.control, by))
    without = _table("switched off")
    for kind in sorted({kind for c in cases for kind in c.sums}):
        rest = [_without(c, kind) for c in cases]
        without.add_row(kind, *_figures(rest, known.control, "dataset"))
    for term in ("index", "gap", "level", "margin"):
        families = {f: dataclasses.replace(t, **{term: 0.0}) for f, t in known.families.items()}
        changed = dataclasses.replace(known, families=families)
        rest = [case(card, changed) for card in cards]
        without.add_row(term, *_figures(rest, known.control, "dataset"))
    rest = [dataclasses.replace(c, classes=()) for c in cases]
    without.add_row("control", *_figures(rest, known.control, "dataset"))
    rest = [dataclasses.replace(c, larger=False) for c in cases]
    without.add_row("larger images, by attack", *_figures(rest, known.control, "attack"))
    return fitted, without


def _without(case: Case, kind: str) -> Case:
    sums, *rest = (
        {k: v for k, v in row.items() if k != kind} for row in (case.sums, *(row for row, _ in case.classes))
    )
    classes = tuple((row, natural) for row, (_, natural) in zip(rest, case.classes, strict=True))
    return dataclasses.replace(case, sums=sums, classes=classes)


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in (first, *COLUMNS):
        table.add_column(column, justify="left" if column == first else "right")
    return table


def _figures(cases: Sequence[Case], control: NaturalTerms, by: Grouping) -> tuple[str, ...]:
    """Weak models are judged, but do not count."""
    chance = left_out(cases, control, by=by)
    strong = [c for c in cases if not c.weak]
    bad = [chance[c.id] for c in strong if c.backdoored]
    clean = [chance[c.id] for c in strong if not c.backdoored]
    cuts = DetectConfig()
    return (
        str(len(strong)),
        f"{area_under_curve(bad, clean):.3f}",
        f"{detection_rate_at(0.05, bad, clean):.3f}",
        f"{sum(p >= cuts.alarm for p in bad)} of {len(bad)}",
        f"{sum(p >= cuts.alarm for p in clean)} of {len(clean)}",
        str(sum(cuts.doubt <= p < cuts.alarm for p in bad + clean)),
        f"{brier_score([*bad, *clean], [True] * len(bad) + [False] * len(clean)):.3f}",
    )
