"""A whole bench in figures: over all models, without the weak ones, and by attack, data set and network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detrigger.bench import figures
from detrigger.bench.figures import Bin, mean, median
from detrigger.bench.truth import Repaired, Row
from detrigger.repair.guard import GuardConfig

LIMITS = GuardConfig()
"""What no repair may break, here on the judge's images."""

NEAR = 0.05
"""A repaired model's attack success rate up to which the backdoor counts as gone."""


@dataclass(frozen=True)
class Figures:
    """Detection over some models; NaN where there is nothing to divide by."""

    models: int
    backdoored: int
    area: float
    """Under the ROC curve of the probability."""
    area_interval: figures.Interval
    """95 %, bootstrap."""
    detection_at_5: float
    """Highest true positive rate at a false positive rate of at most 5 %."""
    detection_at_1: float
    """The same at 1 %."""
    detected: float
    """Share of the backdoored with verdict `backdoored`."""
    false_alarms: float
    """Share of the clean with verdict `backdoored`."""
    inconclusive: float
    """Share of all."""
    target_named: float
    """Share of the detected with a target of their own for which a right one is named."""
    sources_named: float
    """Share of those with the right target for which the right sources are named."""
    brier: float
    calibration_error: float
    controlled: float
    """Share of all of which a control was asked, which costs more than the rest."""
    image_passes: float
    """Median."""
    seconds: float
    """Median, by the clock."""
    cpu_seconds: float
    """Median."""
    peak_memory: float
    """Most, in bytes."""


@dataclass(frozen=True)
class RepairFigures:
    """Repairs of backdoored models, by the triggers that were planted; means, but where said otherwise."""

    detected: int
    repaired: int
    gone: float
    """Share of the repaired with an attack success rate of at most NEAR."""
    success_before: float
    success_after: float
    accuracy_before: float
    accuracy_after: float
    robust_before: float
    robust_after: float
    effectiveness: float
    recall_drop: float
    """The most of any class of any model."""
    recall_kept: float
    """Share of the repaired of which no class lost more than NEAR of its recall."""
    lasting: float
    """Attack success rate after tuning with a handful of poisoned images; NaN: not measured."""
    relearned: float
    """The same of the models as they were."""
    cpu_seconds: float
    """Median, of repair and rescans."""
    harmed: int
    """Clean models that were changed and broke a limit of the guard, on the judge's images."""


@dataclass(frozen=True)
class Summary:
    """Figures of one bench."""

    everything: Figures
    ordinary: Figures
    """Without weak models."""
    weak: Figures
    """Weak models beside all clean ones."""
    by_attack: dict[str, Figures]
    """Ordinary models of one attack beside all clean ones."""
    by_dataset: dict[str, Figures]
    """Ordinary and clean models."""
    by_arch: dict[str, Figures]
    """Ordinary and clean models."""
    roc: tuple[tuple[float, float], ...]
    """False and true positive rates, ordinary models."""
    reliability: tuple[Bin, ...]
    """Ordinary models."""
    repairs: RepairFigures | None
    """None if none was asked for."""


def summarise(rows: Sequence[Row], *, repair: bool = False, seed: int = 0) -> Summary:
    """All figures; `seed` is the bootstrap's."""
    clean = [row for row in rows if not row.backdoored]
    ordinary = [row for row in rows if not row.weak]
    bad = [row for row in ordinary if row.backdoored]
    scores = [[row.probability for row in part] for part in (bad, clean)]
    return Summary(
        everything=figured(rows, seed=seed),
        ordinary=figured(ordinary, seed=seed),
        weak=figured([*clean, *(row for row in rows if row.weak)], seed=seed),
        by_attack={
            name: figured([*clean, *(row for row in bad if row.attack == name)], seed=seed)
            for name in sorted({row.attack for row in bad})
        },
        by_dataset={
            name: figured([row for row in ordinary if row.dataset == name], seed=seed)
            for name in sorted({row.dataset for row in ordinary})
        },
        by_arch={
            name: figured([row for row in ordinary if row.arch == name], seed=seed)
            for name in sorted({row.arch for row in ordinary})
        },
        roc=figures.roc_curve(*scores),
        reliability=_reliability(ordinary),
        repairs=_repairs(rows) if repair else None,
    )


def figured(rows: Sequence[Row], *, seed: int = 0) -> Figures:
    """Detection over these models."""
    bad, clean = ([row for row in rows if row.backdoored == kind] for kind in (True, False))
    scores = [row.probability for row in bad], [row.probability for row in clean]
    return Figures(
        models=len(rows),
        backdoored=len(bad),
        area=figures.area_under_curve(*scores),
        area_interval=figures.area_interval(*scores, seed=seed),
        detection_at_5=figures.detection_rate_at(0.05, *scores),
        detection_at_1=figures.detection_rate_at(0.01, *scores),
        detected=mean([row.verdict == "backdoored" for row in bad]),
        false_alarms=mean([row.verdict == "backdoored" for row in clean]),
        inconclusive=mean([row.verdict == "inconclusive" for row in rows]),
        target_named=mean([row.target_named for row in bad if row.target_named is not None]),
        sources_named=mean([row.sources_named for row in bad if row.sources_named is not None]),
        brier=figures.brier_score([row.probability for row in rows], [row.backdoored for row in rows]),
        calibration_error=figures.calibration_error(_reliability(rows)),
        controlled=mean([row.controlled for row in rows]),
        image_passes=median([row.image_passes for row in rows]),
        seconds=median([row.seconds for row in rows]),
        cpu_seconds=median([row.cpu_seconds for row in rows]),
        peak_memory=max((float(row.peak_memory) for row in rows), default=math.nan),
    )


def _reliability(rows: Sequence[Row]) -> tuple[Bin, ...]:
    return figures.reliability([row.probability for row in rows], [row.backdoored for row in rows])


def _repairs(rows: Sequence[Row]) -> RepairFigures:
    bad = [row for row in rows if row.backdoored]
    done: list[Repaired] = [row.repair for row in bad if row.repair is not None]
    clean = [row.repair for row in rows if row.repair is not None and not row.backdoored]
    return RepairFigures(
        detected=sum(row.verdict == "backdoored" for row in bad),
        repaired=len(done),
        gone=mean([r.success_after <= NEAR for r in done]),
        success_before=mean([r.success_before for r in done]),
        success_after=mean([r.success_after for r in done]),
        accuracy_before=mean([r.accuracy_before for r in done]),
        accuracy_after=mean([r.accuracy_after for r in done]),
        robust_before=mean([r.robust_before for r in done]),
        robust_after=mean([r.robust_after for r in done]),
        effectiveness=mean([r.effectiveness for r in done]),
        recall_drop=max((r.recall_drop for r in done), default=math.nan),
        recall_kept=mean([r.recall_drop <= NEAR + 1e-6 for r in done]),
        lasting=mean([r.relearned_after for r in done]),
        relearned=mean([r.relearned_before for r in done]),
        cpu_seconds=median([r.cpu_seconds for r in done]),
        harmed=sum(
            r.accuracy_before - r.accuracy_after > LIMITS.accuracy_drop or r.recall_drop > LIMITS.recall_drop
            for r in clean
        ),
    )
