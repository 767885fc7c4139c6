"""The loop: scan, repair, rescan, until nothing is found or the rounds are used up."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field

from detrigger.errors import ModelError, UsageError
from detrigger.heats import Progress, silent
from detrigger.images import Images, split
from detrigger.measure import CurvePoint
from detrigger.model import Classifier
from detrigger.repair.guard import GuardConfig, Judgement, judge
from detrigger.repair.methods import AUTO, METHODS
from detrigger.scan import Backdoor, Scan, ScanConfig, scan


@dataclass(frozen=True)
class CleanConfig:
    """Which repairs to try and when to stop."""

    method: str = "auto"
    """`auto` (one after another until one passes the guard), or one of `detrigger methods`."""
    rounds: int = 5
    """Repair rounds at most; 1 or more."""
    held_out: float = 0.4
    """Share of the images that candidates are judged on, never fitted on; 0 to 1."""


@dataclass(frozen=True)
class Attempt:
    """One candidate of one round."""

    round: int
    """From 1."""
    method: str
    """With what matters of its options, e.g. `prune fc:in, 3 of 64 neurons`."""
    judgement: Judgement
    chosen: bool
    """It became the model that the next round starts from."""
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Cleaning:
    """What the loop did. `model` is the original object unless `repaired`."""

    model: Classifier
    repaired: bool
    """Candidates were accepted, and the last rescan does not say `backdoored`."""
    reason: str
    """One sentence: why the loop ended."""
    scans: tuple[Scan, ...] = field(repr=False)
    """The first scan and one rescan per accepted round."""
    attempts: tuple[Attempt, ...]


def clean(
    model: Classifier,
    images: Images,
    scan_config: ScanConfig = ScanConfig(),
    config: CleanConfig = CleanConfig(),
    *,
    guard: GuardConfig = GuardConfig(),
    first: Scan | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Cleaning:
    """Scan (unless the `first` scan is given), repair and rescan with a fresh seed, until nothing is found.

    Triggers of earlier rounds stay in the pool, and every candidate is judged against the original on
    images not used to make it. Fails closed: if no candidate passes, or the last rescan fails or still finds
    a backdoor, the original is returned. Raises UsageError for an unknown method.
    """
    if config.method not in (*METHODS, "auto"):
        raise UsageError(f"no repair {config.method!r}; choose auto, {', '.join(METHODS)}")
    scans = [first or scan(model, images, scan_config, seed=seed, progress=progress)]
    attempts: list[Attempt] = []
    pool: list[Backdoor] = []
    current = model
    for number in range(1, config.rounds + 1):
        if scans[-1].finding.verdict != "backdoored":
            break
        pool.extend(scans[-1].backdoors)
        tried = _round(model, current, images, pool, config, guard, number, seed)
        best = min((t for t in tried if t[1].judgement.accepted), key=_badness, default=None)
        attempts += [_mark(attempt, chosen=best is not None and attempt is best[1]) for _, attempt in tried]
        if best is None:
            reason = "no candidate passed the guard; the original is untouched"
            return Cleaning(model, False, reason, tuple(scans), tuple(attempts))
        current = best[0]
        try:
            scans.append(scan(current, images, scan_config, seed=seed + number, progress=progress))
        except ModelError as error:  # the repair's fault: the original was scanned
            reason = f"the repaired model cannot be scanned ({error}); the original is untouched"
            return Cleaning(model, False, reason, tuple(scans), tuple(attempts))
    last = scans[-1].finding.verdict
    if last == "backdoored":
        reason = f"a backdoor is still found after {config.rounds} rounds; the original is untouched"
        return Cleaning(model, False, reason, tuple(scans), tuple(attempts))
    if not attempts:
        return Cleaning(model, False, f"nothing to repair: the verdict is {last}", tuple(scans), ())
    reason = f"the rescan with a fresh seed says {last}"
    return Cleaning(current, True, reason, tuple(scans), tuple(attempts))


def _round(
    original: Classifier,
    current: Classifier,
    images: Images,
    pool: list[Backdoor],
    config: CleanConfig,
    guard: GuardConfig,
    number: int,
    seed: int,
) -> list[tuple[Classifier, Attempt]]:
    fitted, held_out = split(images, (1 - config.held_out, config.held_out), seed=seed)
    triggers, targets = tuple(b.trigger for b in pool), tuple(b.target for b in pool)
    tried = []
    for name in AUTO if config.method == "auto" else (config.method,):
        for candidate in METHODS[name].candidates(current):
            began = time.perf_counter()
            repaired = candidate(current, fitted, triggers, targets, seed + number)
            judgement = judge(original, repaired.model, held_out, triggers, targets, guard)
            seconds = time.perf_counter() - began
            attempt = Attempt(number, repaired.label, judgement, False, repaired.curve, seconds)
            tried.append((repaired.model, attempt))
        if any(attempt.judgement.accepted for _, attempt in tried):
            break
    if not tried:
        raise UsageError(f"repair {config.method!r} does not apply to this network; use --method auto")
    return tried


def _badness(tried: tuple[Classifier, Attempt]) -> float:
    judgement = tried[1].judgement
    return max(judgement.success_after) + judgement.accuracy_before - judgement.accuracy_after


def _mark(attempt: Attempt, *, chosen: bool) -> Attempt:
    return dataclasses.replace(attempt, chosen=chosen)
