"""Scans of many models in one folder, and what became of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrigger.cli.formats import Format, tell_many
from detrigger.errors import DataError, OutputError, UsageError
from detrigger.report.alerts import accept
from detrigger.report.baseline import Acceptance
from detrigger.report.document import read
from detrigger.report.many import encode_summary, exit_code, line, summarised
from detrigger.report.schema import Document
from detrigger.save import made, write_atomically

LIST, FAILED, REPORT, SUMMARY = "models.json", "failed.json", "report.json", "summary.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one model."""

    path: str
    folder: str
    """Name of the folder with its files, below that of all."""
    report: Document | None = None
    error: str = ""
    """Why there is no report."""


def named(models: Sequence[Path]) -> dict[str, Path]:
    """A name for the folder of each model: that of its file, with a number where others are called alike.

    Raises UsageError for a model that is given twice.
    """
    doubled = [str(path) for path, count in Counter(models).items() if count > 1]
    if doubled:
        raise UsageError(f"{doubled[0]} is given twice; give each model once")
    names: dict[str, Path] = {}
    for path in models:
        stem = path.stem if path.suffix else path.name
        number = next(n for n in range(1, len(models) + 1) if _numbered(stem, n) not in names)
        names[_numbered(stem, number)] = path
    return names


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def share(names: dict[str, Path], shard: str) -> dict[str, Path]:
    """Those of the i-th of n jobs, given as "i/n"; all for an empty text. Raises UsageError."""
    if not shard:
        return names
    first, _, second = shard.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"--shard is {shard!r}, wanted i/n with i from 1 to n, as in 3/8")
    return dict(list(names.items())[int(first) - 1 :: int(second)])


def announce(out: Path, names: dict[str, Path]) -> None:
    """Write down which models belong together, so that it can be seen which are missing."""
    listed = {name: str(path) for name, path in names.items()}
    write_atomically(made(out) / LIST, (json.dumps(listed, indent=2) + "\n").encode())


def failed(folder: Path, error: str) -> None:
    """Keep why a model could not be scanned."""
    write_atomically(made(folder) / FAILED, (json.dumps({"error": error}) + "\n").encode())


def gathered(out: Path, accepted: Iterable[Acceptance]) -> tuple[Outcome, ...]:
    """What became of every model announced in a folder. Raises DataError if there is no such list."""
    accepted = tuple(accepted)
    try:
        listed = json.loads((out / LIST).read_bytes())
        names = {str(name): str(path) for name, path in listed.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{out / LIST} cannot be read ({error}); give the --out folder of a scan of several models"
        ) from error
    if any(Path(name).name != name for name in names):
        raise DataError(f"{out / LIST} names folders outside of {out}, which is refused")
    return tuple(_outcome(out, name, path, accepted) for name, path in names.items())


def _outcome(out: Path, name: str, path: str, accepted: tuple[Acceptance, ...]) -> Outcome:
    folder = out / name
    if (folder / FAILED).exists():
        try:
            error = str(json.loads((folder / FAILED).read_bytes())["error"])
        except (OSError, ValueError, LookupError, TypeError) as problem:
            error = f"{folder / FAILED} cannot be read ({problem})"
        return Outcome(path, name, error=error)
    if not (folder / REPORT).exists():
        return Outcome(path, name)
    return Outcome(path, name, accept(read(folder / REPORT), accepted))


def conclude(outcomes: Sequence[Outcome], format: Format, out: Path | None) -> int:
    """Tell, and write to the folder if there is one, what became of the models; the exit code of all."""
    summary = summarised(line(each.path, each.folder, each.report, each.error) for each in outcomes)
    if out:
        write_atomically(out / SUMMARY, encode_summary(summary))
    tell_many(summary, [each.report for each in outcomes if each.report], format)
    return exit_code(summary)


def forget_failure(folder: Path) -> None:
    """The model is scanned again. Raises OutputError."""
    try:
        (folder / FAILED).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder / FAILED} cannot be removed ({error.strerror})") from error
