"""The part of report.json that tells of repairs."""

from __future__ import annotations

from typing import Annotated

import msgspec

from detrigger.report.json_types import Index, Share, Verdict


class AccuracyChange(msgspec.Struct, frozen=True, kw_only=True):
    """Clean accuracy on held-out images."""

    before: Share | None
    """Of the original."""
    after: Share | None
    """Of the candidate."""


class SuccessChange(msgspec.Struct, frozen=True, kw_only=True):
    """Attack success rate of one synthesised trigger on held-out images."""

    before: Share | None
    """On the original."""
    after: Share | None
    """On the candidate."""
    upper95: Share | None
    """One-sided 95 % upper bound on `after` (Clopper-Pearson)."""


class WorstSuccessChange(msgspec.Struct, frozen=True, kw_only=True):
    """The highest attack success rate over all synthesised triggers, and each."""

    before: Share | None
    """On the original."""
    after: Share | None
    """On the candidate."""
    upper95: Share | None
    """One-sided 95 % upper bound on `after` (Clopper-Pearson)."""
    per_trigger: tuple[SuccessChange, ...] = ()
    """In the order of the triggers."""


class CurveStop(msgspec.Struct, frozen=True, kw_only=True):
    """One stop on the way of a repair."""

    share: Share | None
    """Of the neurons pruned, or of the epochs done."""
    accuracy: Share | None
    """Clean accuracy there."""
    success: Share | None
    """Highest attack success rate of the synthesised triggers there."""


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finalist against the original, on images that no other candidate of its kind had to please.

    Neither repairs nor rescans saw them. The bounds allow for every candidate that was judged on them.
    """

    accepted: bool
    """It passed the guard there, too."""
    reason: str
    """Why it did or did not."""
    images: Index
    """How many there are."""
    looks: Index
    """Candidates judged on them by then."""
    accuracy: AccuracyChange
    """Before and after."""
    accuracy_loss_upper95: float | None
    """One-sided 95 % upper bound on the clean accuracy lost, in [-1, 1]."""
    class_recall_drop: dict[str, float | None]
    """Per class name: recall before minus after."""
    synthesised_asr: WorstSuccessChange
    """Before and after."""


class RepairRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a repair, judged on images not used to make it."""

    round: Annotated[int, msgspec.Meta(ge=1)]
    """From 1."""
    method: str
    """With what matters of its options."""
    accepted: bool
    """It passed the guard."""
    reason: str
    """Why it was or was not accepted."""
    accuracy: AccuracyChange
    """Before and after."""
    class_recall_drop: dict[str, float | None]
    """Per class name: recall before minus after; classes without held-out images are left out."""
    synthesised_asr: WorstSuccessChange
    """Before and after."""
    chosen: bool = False
    """It was the best of its round; rescans had to say whether anything is left."""
    images: Index = 0
    """Held-out images it was judged on."""
    seconds: float | None = None
    """It took."""
    curve: tuple[CurveStop, ...] = ()
    """How accuracy and success went on the way."""
    certificate: CertificateRecord | None = None
    """Null if it was no finalist."""


class Rescan(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan found after an accepted repair."""

    verdict: Verdict
    """On the repaired model."""
    probability: Share
    """That it is still backdoored."""
    targets: tuple[Index, ...]
    """Of the backdoors found."""
    round: Index = 0
    """The round that it came after; 0 where it was not told."""
    seed: int | None = None
    """Of the scan."""


class CleaningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the loop of repair and rescan ended."""

    repaired: bool
    """A candidate was accepted and certified, and two rescans of it find nothing."""
    reason: str
    """Why the loop ended."""
    rescans: tuple[Rescan, ...]
    """One or more per accepted round."""
    doubt: bool = False
    """Repaired, but a rescan is inconclusive, or one of three raised an alarm."""
    certificate: CertificateRecord | None = None
    """Of the repaired model; null if there is none."""
