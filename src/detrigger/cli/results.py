"""Files that scan and repair leave behind."""

from __future__ import annotations

import datetime
import os
import re
import tempfile
from collections.abc import Iterable
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
from detrigger.save import save_trigger, write_atomically
from detrigger.scan import Scan

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


def made(folder: Path) -> Path:
    """The folder, made if it was not there. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return folder


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
    """The report in all formats and triggers/ in a folder; triggers of an earlier scan there are removed."""
    report = accept(document(scan, cleaning=cleaning, matches=matches, model=model), accepted)
    html = page(report, scan, images, model, cleaning=cleaning, matches=matches)
    triggers = made(folder) / "triggers"
    _clear(triggers)
    for backdoor, entry in zip(scan.backdoors, report.backdoors, strict=True):
        made(triggers)
        save_trigger(backdoor.trigger, folder / entry.trigger, target=backdoor.target, family=backdoor.family)
        write_atomically(folder / entry.picture, trigger_png(backdoor.trigger))
    write_atomically(folder / "report.html", html.encode())
    for told in FORMATS.values():
        write_atomically(folder / told.file, told.render([report], root()).encode())
    write_atomically(folder / "report.json", encode(report))
    return report


def _clear(triggers: Path) -> None:
    try:
        for old in triggers.glob("class_*"):
            if TRIGGER_FILE.fullmatch(old.name):
                old.unlink()
        if triggers.is_dir() and not any(triggers.iterdir()):
            triggers.rmdir()
    except OSError as error:
        raise _cannot_write(triggers, error) from error
