"""Files that scan and repair leave behind."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detrigger.clean import Cleaning
from detrigger.cli.console import note
from detrigger.cli.formats import root
from detrigger.errors import OutputError
from detrigger.identify import Match
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report.alerts import accept
from detrigger.report.baseline import Acceptance, read_baseline, valid
from detrigger.report.document import document, encode
from detrigger.report.formats import FORMATS
from detrigger.report.html import page
from detrigger.report.pictures import trigger_png
from detrigger.report.schema import Document
from detrigger.save import made, save_trigger, write_atomically
from detrigger.scan import Scan

REPORT, TRIGGERS, NEW = "report.json", "triggers", ".detrigger-new"
KEPT = ".detrigger-work"
"""Folder in --out with the results of an unfinished scan."""
TRIGGER_FILE = re.compile(r"class_\d+(_\d+)?\.(safetensors|png)")
"""Names of files that a scan writes for its triggers."""


def check_folder(folder: Path) -> None:
    """Could files be written there? Asked before hours of work; leaves nothing. Raises OutputError."""
    try:
        nearest = next(p for p in (folder, *folder.parents) if p.exists())
        if not nearest.is_dir():
            raise OutputError(f"{nearest} is a file, wanted a folder to write to; choose another --out")
        handle, name = tempfile.mkstemp(dir=nearest, prefix=".detrigger-")
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def check_links(*paths: Path) -> None:
    """Raises OutputError for a folder below --out that is a link: who made it would say where we write."""
    for path in paths:
        if path.is_symlink():
            raise OutputError(
                f"{path} is a link, so files would be written elsewhere; remove it, or choose another --out"
            )


def check_file(file: Path, endings: tuple[str, ...], *, inputs: Iterable[Path | None]) -> None:
    """Could this file, and those with these endings put to its name, be written?

    Raises OutputError if not, or if one of them is an input.
    """
    check_folder(file.parent)
    for path in (file, *(Path(f"{file}{ending}") for ending in endings)):
        if path.is_dir():
            raise OutputError(f"{path} is a folder, wanted a file to write to; choose another --out")
        if any(path.exists() and given.exists() and path.samefile(given) for given in inputs if given):
            raise OutputError(f"{path} is read here, so it is not overwritten; choose another --out")


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"{folder} cannot be written ({reason}); choose another --out")


def read_accepted(baseline: Path | None) -> tuple[Acceptance, ...]:
    """What a baseline file accepts today; says on stderr how much of it no longer counts."""
    accepted = read_baseline(baseline) if baseline else ()
    counting = valid(accepted, datetime.date.today())
    if gone := len(accepted) - len(counting):
        note(f"{gone} of {len(accepted)} findings accepted in {baseline} no longer are: their day has passed")
    return counting


def write_scan(
    folder: Path,
    scan: Scan,
    images: Images,
    model: Classifier,
    *,
    cleaning: Cleaning | None = None,
    matches: tuple[Match, ...] = (),
    accepted: Iterable[Acceptance] = (),
) -> Document:
    """The report in all formats and triggers/ in a folder; triggers of an earlier scan there are removed.

    Until all is written, what was there stays as it was.
    """
    report = accept(document(scan, cleaning=cleaning, matches=matches, model=model), accepted)
    html = page(report, scan, images, model, cleaning=cleaning, matches=matches)
    shutil.rmtree(folder / NEW, ignore_errors=True)  # of a scan that was killed
    new = made(folder / NEW)
    try:
        for backdoor, entry in zip(scan.backdoors, report.backdoors, strict=True):
            made(new / TRIGGERS)
            save_trigger(
                backdoor.trigger, new / entry.trigger, target=backdoor.target, family=backdoor.family
            )
            write_atomically(new / entry.picture, trigger_png(backdoor.trigger))
        write_atomically(new / "report.html", html.encode())
        for told in FORMATS.values():
            write_atomically(new / told.file, told.render([report], root()).encode())
        write_atomically(new / REPORT, encode(report))
        _exchange(new, folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return report


def _exchange(new: Path, folder: Path) -> None:
    """Put new files in the place of old ones and drop old triggers; the report that tells of them is last."""
    files = [path for path in new.rglob("*") if path.is_file() and path.name != REPORT]
    kept = {file.name for file in files}
    for file in files:
        made((folder / file.relative_to(new)).parent)
        file.replace(folder / file.relative_to(new))
    for old in (folder / TRIGGERS).glob("class_*"):
        if TRIGGER_FILE.fullmatch(old.name) and old.name not in kept:
            old.unlink()
    if (folder / TRIGGERS).is_dir() and not any((folder / TRIGGERS).iterdir()):
        (folder / TRIGGERS).rmdir()
    (new / REPORT).replace(folder / REPORT)


def clear(folder: Path) -> None:
    """Remove what a scan keeps while it is at work."""
    for name in (KEPT, NEW):
        shutil.rmtree(folder / name, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    """A handle that nobody else can have until it is closed; None where the system has no such thing."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(
            f"{folder} is being written to by another detrigger; wait for it, or choose another --out"
        ) from error
    except OSError:  # some network's file system
        pass
    return handle


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps others from writing to a folder meanwhile; it is made, and goes again if nothing came into it.

    Raises OutputError if another detrigger is at work there, or if a folder in it is a link.
    """
    before = [p for p in (folder, *folder.parents) if not p.exists()]
    handle = _lock(made(folder))
    try:
        check_links(folder / TRIGGERS, *folder.glob(".detrigger-*"))
        yield
    finally:
        if handle is not None:
            os.close(handle)  # which ends the lock, as the death of the process does
        for path in (*folder.glob(".detrigger-*"), *before):
            with suppress(OSError):  # it is not empty, so it stays
                path.rmdir()
