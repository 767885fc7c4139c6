"""Findings that somebody has accepted, so that they do not fail a pipeline."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from detrigger.errors import DataError


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """One finding that somebody has accepted, until a day."""

    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    """Of the finding: a hash of rule, model and target class."""
    reason: Annotated[str, msgspec.Meta(min_length=1)]
    """Why it is accepted."""
    expires: datetime.date
    """Last day on which it is."""
    finding: str = ""
    """In words, for the reader of the file."""
    model: str = ""
    """Path of the model, for the reader of the file."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a baseline file."""

    baseline_version: Literal[1]
    """Of the file's shape."""
    accepted: tuple[Acceptance, ...]


def read_baseline(path: Path | str) -> tuple[Acceptance, ...]:
    """What a baseline file accepts. Raises DataError if there is none or it is malformed."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Baseline).accepted
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot read the baseline {path} ({reason}); check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is no baseline ({reason}); make one with detrigger baseline REPORT --out FILE"
        ) from error


def encode_baseline(accepted: Iterable[Acceptance]) -> bytes:
    """A baseline file: UTF-8, indented, sorted by model and fingerprint."""
    ordered = tuple(sorted(accepted, key=lambda a: (a.model, a.fingerprint)))
    baseline = Baseline(baseline_version=1, accepted=ordered)
    return msgspec.json.format(msgspec.json.encode(baseline), indent=2) + b"\n"


def valid(accepted: Iterable[Acceptance], today: datetime.date) -> tuple[Acceptance, ...]:
    """Those that have not expired."""
    return tuple(a for a in accepted if today <= a.expires)
