"""The part of report.json that tells of repairs, from results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from detrigger.clean import Cleaning
from detrigger.measure import CurvePoint
from detrigger.portfolio import Attempt
from detrigger.repair.guard import Judgement


def repair_values(attempt: Attempt) -> dict[str, Any]:
    """One attempt, as `RepairRecord` wants it."""
    judged = attempt.judgement
    return {
        "round": attempt.round,
        "method": attempt.method,
        "chosen": attempt.chosen,
        "seconds": attempt.seconds,
        "curve": [_stop(point) for point in attempt.curve],
        "certificate": _certificate(attempt.certificate),
        **_judged(judged),
    }


def _certificate(judged: Judgement | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    return _judged(judged) | {"looks": judged.looks, "accuracy_loss_upper95": judged.loss_upper95}


def _judged(judged: Judgement) -> dict[str, Any]:
    each = [
        {"before": before, "after": after, "upper95": upper}
        for before, after, upper in zip(
            judged.success_before, judged.success_after, judged.success_upper95, strict=True
        )
    ]
    worst = {key: _highest(change[key] for change in each) for key in ("before", "after", "upper95")}
    return {
        "accepted": judged.accepted,
        "reason": judged.reason,
        "accuracy": {"before": judged.accuracy_before, "after": judged.accuracy_after},
        "class_recall_drop": judged.recall_drop,
        "synthesised_asr": worst | {"per_trigger": each},
        "images": judged.images,
    }


def _stop(point: CurvePoint) -> dict[str, float]:
    return {"share": point.share, "accuracy": point.accuracy, "success": point.success}


def _highest(values: Iterable[float]) -> float | None:
    return max((v for v in values if math.isfinite(v)), default=None)


def cleaning_values(cleaning: Cleaning) -> dict[str, Any]:
    """How the loop ended, as `CleaningRecord` wants it."""
    return {
        "repaired": cleaning.repaired,
        "reason": cleaning.reason,
        "rescans": [
            {
                "verdict": again.finding.verdict,
                "probability": again.finding.probability,
                "targets": [b.target for b in again.backdoors],
                "round": number,
                "seed": again.seed,
            }
            for again, number in zip(cleaning.scans[1:], cleaning.rounds[1:], strict=True)
        ],
        "doubt": cleaning.doubt,
        "certificate": _certificate(cleaning.certificate),
    }
