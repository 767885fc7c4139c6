"""The loop: scan, repair, rescan, until nothing is found or the rounds are used up."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrigger import portfolio
from detrigger.errors import ModelError, UsageError
from detrigger.heats import Progress, silent
from detrigger.images import Images
from detrigger.measure import success
from detrigger.model import Classifier
from detrigger.portfolio import Attempt
from detrigger.repair.guard import GuardConfig, Judgement, Known, Parts, of_sources, parts
from detrigger.repair.methods import AUTO
from detrigger.scan import Backdoor, Scan, ScanConfig, scan
from detrigger.suspects import PLAUSIBLE, likely, strong, suspects
from detrigger.trigger import Trigger

RESCANS = 2
"""Scans with seeds of their own that must find nothing after a repair."""

OUTVOTED = 1
"""Rescans that may raise an alarm beside them, for classes that the first scan thought innocent."""

PLANTED = 0.75
"""Success in the original, from which on a trigger that a rescan finds shows another backdoor of it."""


@dataclass(frozen=True)
class CleanConfig:
    """Which repairs to try and when to stop. Raises UsageError for values out of range."""

    method: str = "auto"
    """`auto` (one after another until one passes the guard with a margin), or one of `detrigger methods`."""
    rounds: int = 5
    """Repair rounds at most; 1 or more."""
    held_out: float = 0.4
    """Share of the images that candidates are judged on, never fitted on; above 0, at most 0.6."""
    even_if_clean: bool = False
    """Repair a model in which nothing is found, too: against the triggers of its most suspect classes."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}, wanted 1 or more")
        if not 0 < self.held_out <= 0.6:  # more, and scans would search on images that certify
            raise UsageError(f"--held-out is {self.held_out:g}, wanted more than 0 and at most 0.6")
        portfolio.check(self.method)


@dataclass(frozen=True)
class Cleaning:
    """What the loop did. `model` is the original object unless `repaired`."""

    model: Classifier
    repaired: bool
    """A candidate was accepted and certified, and `RESCANS` rescans of it find nothing."""
    reason: str
    """One sentence: why the loop ended."""
    scans: tuple[Scan, ...] = field(repr=False)
    """The first scan, then the rescans of each round."""
    attempts: tuple[Attempt, ...]
    rounds: tuple[int, ...] = (0,)
    """Per scan, the round that it came after; 0 for the first."""
    doubt: bool = False
    """Repaired, but a rescan is inconclusive, or one of three raised an alarm."""
    certificate: Judgement | None = None
    """Of the model returned, if `repaired`."""


@dataclass
class _State:
    """Of the loop."""

    model: Classifier
    scans: list[Scan]
    rounds: list[int]
    attempts: list[Attempt]
    pool: list[Backdoor]
    """Triggers that must fail."""
    left: list[Backdoor]
    """What rescans found that is no other backdoor of the original."""
    methods: list[str]
    """In the order in which the next round tries them."""
    method: str = ""
    """That made the model."""

    def ended(self, original: Classifier, reason: str, *, repaired: bool = False) -> Cleaning:
        chosen = [a.certificate for a in self.attempts if a.chosen]
        return Cleaning(
            model=self.model if repaired else original,
            repaired=repaired,
            reason=reason,
            scans=tuple(self.scans),
            attempts=tuple(self.attempts),
            rounds=tuple(self.rounds),
            doubt=repaired and any(s.finding.verdict != "clean" for s in self.last()),
            certificate=chosen[-1] if repaired else None,
        )

    def last(self) -> list[Scan]:
        """Of the last round."""
        return [s for s, r in zip(self.scans, self.rounds, strict=True) if r == self.rounds[-1]]

    def alarmed(self) -> list[Backdoor]:
        """What those scans found that say `backdoored`."""
        return [b for s in self.last() if s.finding.verdict == "backdoored" for b in s.backdoors]


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
    """Scan (unless the `first` scan is given), repair and rescan with fresh seeds, until nothing is found.

    A model in which nothing is found is left as it is, unless `config.even_if_clean`.
    Every round starts from the original, with the triggers of all earlier rounds: so what one repair after
    another costs in accuracy does not add up. A method whose candidate still has a backdoor to a target that
    it was to remove comes last from then on. Candidates are judged on images not used to make them. Fails
    closed: if no candidate is certified, or a rescan fails or still finds a backdoor when the rounds are
    over, the original is returned. Raises DataError for too few images.
    """
    given = parts(images, config.held_out, seed=first.seed if first else seed)
    before = first or scan(model, images, scan_config, seed=seed, progress=progress)
    pool = before.backdoors if before.finding.verdict == "backdoored" else ()
    if not pool and config.even_if_clean:
        pool = suspects(model, given.fit, before, seed=seed)
    if not pool:
        reason = f"nothing to repair: the verdict is {before.finding.verdict}"
        return Cleaning(model, False, reason, (before,), ())
    methods = list(AUTO) if config.method == "auto" else [config.method]
    state = _State(model, [before], [0], [], list(pool), [], methods)
    for number in range(1, config.rounds + 1):
        if number > 1:
            _left(state, model, given.fit)
        if not _repaired(state, model, given, guard, number, seed):
            return state.ended(model, "no candidate passed the guard; the original is untouched")
        try:
            passed = _passed(state, given.scanned, scan_config, number, progress)
        except ModelError as error:  # the repair's fault: the original was scanned
            return state.ended(
                model, f"the repaired model cannot be scanned ({error}); the original is untouched"
            )
        if passed:
            return state.ended(model, _verdicts(state), repaired=True)
    reason = f"a backdoor is still found after {config.rounds} rounds; the original is untouched"
    return state.ended(model, reason)


def _passed(state: _State, images: Images, config: ScanConfig, number: int, progress: Progress) -> bool:
    """Do rescans of the state's model find nothing?

    One alarm more than `OUTVOTED` ends them, and any for a class that is repaired or was plausible before.
    Most others are a matter of the seed: classes that are small by nature have triggers that a search finds
    now and then, in the original as well.
    """
    first = state.scans[0]
    suspected = {b.target for b in state.pool} | set(likely(first, least=PLAUSIBLE))
    quiet = alarms = 0
    while quiet < RESCANS:
        fresh = first.seed + len(state.scans)
        natural = state.scans[-1].natural  # a repaired model is like the original on clean images
        again = scan(state.model, images, config, natural=natural, seed=fresh, progress=progress)
        state.scans.append(again)
        state.rounds.append(number)
        if again.finding.verdict != "backdoored":
            quiet += 1
            continue
        alarms += 1
        if alarms > OUTVOTED or suspected & {b.target for b in again.backdoors}:
            return False
    return True


def _left(state: _State, original: Classifier, images: Images) -> None:
    """Take in what the rescans of the last round found.

    A new target whose trigger works in the original as well is another backdoor of it. Anything else is the
    fault of the method: other candidates are made with those triggers, but not judged by them, as in the
    original they may be natural, or nothing at all.
    """
    known = {b.target for b in state.pool}
    for found in state.alarmed():
        if found.target not in known and _works(original, images, found) >= PLANTED:
            state.pool.append(found)
        else:
            state.left.append(found)
            state.methods.sort(key=state.method.__eq__)


def _works(original: Classifier, images: Images, found: Backdoor) -> float:
    """Its success in the original, on images of its sources."""
    return success(original, of_sources(images, found.sources), found.trigger, found.target)


def _repaired(
    state: _State,
    original: Classifier,
    given: Parts,
    guard: GuardConfig,
    number: int,
    seed: int,
) -> bool:
    """One round: was a candidate chosen? It is the state's model then.

    Candidates are made with the triggers of the pool and stronger ones, and judged by those of the pool.
    Where nothing was found, triggers of suspects need not fail, as they may be natural.
    """
    lenient = state.scans[0].finding.verdict != "backdoored"
    known = Known(
        tuple(b.trigger for b in state.pool),
        tuple(b.target for b in state.pool),
        tuple(b.sources for b in state.pool),
        must_fail=not lenient,
        beside=_stronger(state, original, given, seed + number),
    )
    trials = portfolio.tried(
        original,
        given,
        known,
        tuple(state.methods),
        guard,
        number=number,
        looks=sum(a.certificate is not None for a in state.attempts),
        seed=seed,
    )
    state.attempts += [t.attempt for t in trials]
    for trial in trials:
        if trial.attempt.chosen:
            state.model, state.method = trial.model, trial.method
            return True
    return False


def _stronger(
    state: _State, original: Classifier, given: Parts, seed: int
) -> tuple[tuple[Trigger, int], ...]:
    """Triggers for the targets of the pool and other plausible ones."""
    probabilities = likely(state.scans[0], least=PLAUSIBLE) | {b.target: b.probability for b in state.pool}
    families = tuple(b.family for b in state.pool)
    made = strong(original, given.fit, probabilities, families, seed=seed)
    return tuple((b.trigger, b.target) for b in (*state.left, *made))


def _verdicts(state: _State) -> str:
    """Of the rescans that passed, in half a sentence."""
    said = [s.finding.verdict for s in state.last()]
    if all(verdict == "clean" for verdict in said):
        return f"{len(said)} rescans with fresh seeds say clean"
    told = [f"{said.count(v)} {v}" for v in ("clean", "inconclusive", "backdoored") if v in said]
    if alarmed := dict.fromkeys(b.target for b in state.alarmed()):
        names = ", ".join(repr(state.scans[0].classes[target]) for target in alarmed)
        told[-1] += f" by {names}, which the scan of the original did not suspect"
    return f"rescans with fresh seeds: {', '.join(told)}"
