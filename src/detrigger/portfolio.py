"""Several repairs, cheapest first: each is judged, and the best that passes the guard is certified."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from detrigger.errors import UsageError
from detrigger.measure import CurvePoint
from detrigger.model import Classifier
from detrigger.repair.guard import GuardConfig, Judgement, Known, Parts, judge
from detrigger.repair.methods import METHODS

MARGIN = 0.5
"""A candidate whose triggers keep no more than this share of the success they may keep ends the search. As to
accuracy, it is enough not to need the standard error that the guard allows for."""

ROBUST = 0.1
"""By so much less often than others, at most, does that candidate give stamped images their right label."""

FINALISTS = 3
"""Candidates of one round that may ask for a certificate, until one gets it."""


@dataclass(frozen=True)
class Attempt:
    """One candidate of one round."""

    round: int
    """From 1."""
    method: str
    """With what matters of its options, e.g. `prune fc:in, 3 of 64 neurons`."""
    judgement: Judgement
    """On the images by which candidates are chosen."""
    chosen: bool
    """It was the best of its round, and rescans had to say whether anything is left."""
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = 0.0
    certificate: Judgement | None = None
    """On images that only finalists see; None if it was none of them."""


@dataclass(frozen=True)
class Trial:
    """A candidate with what is said of it."""

    model: Classifier
    attempt: Attempt
    method: str
    """Its name in the table of repairs."""


def check(method: str) -> None:
    """Raises UsageError for an unknown method."""
    if method not in (*METHODS, "auto"):
        raise UsageError(f"no repair {method!r}; choose auto, {', '.join(METHODS)}")


def tried(
    original: Classifier,
    parts: Parts,
    known: Known,
    methods: tuple[str, ...],
    guard: GuardConfig,
    *,
    number: int,
    looks: int,
    seed: int,
) -> tuple[Trial, ...]:
    """Candidates made from the original in round `number`, in the order of trial; at most one is chosen.

    The first that passes with a margin asks for a certificate, and ends the search if it gets one; if none
    does, the best of the others that passed ask, one after another. The certifying images had been looked at
    `looks` times before, and have no part in that order.
    Raises UsageError if no method applies to the network.
    """
    trials: list[Trial] = []
    asked: list[int] = []

    def ask(i: int) -> bool:
        asked.append(i)
        trial = trials[i]
        found = judge(original, trial.model, parts.certify, known, guard, looks=looks + len(asked))
        attempt = dataclasses.replace(trial.attempt, certificate=found, chosen=found.accepted)
        trials[i] = dataclasses.replace(trial, attempt=attempt)
        return found.accepted

    triggers = (*known.triggers, *(trigger for trigger, _ in known.beside))
    targets = (*known.targets, *(target for _, target in known.beside))
    for name, candidate in ((n, c) for n in methods for c in METHODS[n].candidates(original)):
        began = time.perf_counter()
        repaired = candidate(original, parts.fit, triggers, targets, seed + number)
        judgement = judge(original, repaired.model, parts.select, known, guard)
        seconds = time.perf_counter() - began
        attempt = Attempt(number, repaired.label, judgement, False, repaired.curve, seconds)
        trials.append(Trial(repaired.model, attempt, name))
        if _comfortable(judgement, guard) and len(asked) < FINALISTS and ask(len(trials) - 1):
            return tuple(trials)
    if not trials:
        raise UsageError(f"repair {methods[0]!r} does not apply to this network; use --method auto")
    passed = [i for i, t in enumerate(trials) if t.attempt.judgement.accepted and i not in asked]
    for i in sorted(passed, key=lambda i: _badness(trials[i], guard))[: FINALISTS - len(asked)]:
        if ask(i):
            break
    return tuple(trials)


def _badness(trial: Trial, guard: GuardConfig) -> float:
    """What is left of the triggers, also when they are stronger than those found; of the accuracy, only what
    was lost beyond the limit. Among few images a little is chance, and a trigger is the reason to be here."""
    judged = trial.attempt.judgement
    lost = judged.accuracy_before - judged.accuracy_after - guard.accuracy_drop
    return _left(judged, judged.success_after, judged.stronger_after) + _gap(judged) / 2 + max(0.0, lost)


def _left(judged: Judgement, *rates: tuple[float, ...]) -> float:
    """By how much more often than without it the most successful trigger still works."""
    return max((r - n for rate in rates for r, n in zip(rate, judged.natural, strict=True)), default=0.0)


def _gap(judged: Judgement) -> float:
    """By how much less often stamped images are given their right label than others."""
    return judged.accuracy_after - min(judged.robust_after, default=judged.accuracy_after)


def _comfortable(judged: Judgement, guard: GuardConfig) -> bool:
    """It passes with a margin, so that nothing better need be looked for."""
    one = 1 / judged.images
    return (
        judged.accepted
        and judged.accuracy_before - judged.accuracy_after <= max(guard.accuracy_drop, one)
        and _left(judged, judged.success_after) <= max(MARGIN * guard.success, one)
        and _left(judged, judged.stronger_after) <= max(guard.success, one)
        and _gap(judged) <= ROBUST
    )
