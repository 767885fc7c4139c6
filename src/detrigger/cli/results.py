"""Files that scan and repair leave behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from detrigger.clean import Cleaning
from detrigger.errors import OutputError
from detrigger.identify import Match
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report.document import document, encode
from detrigger.report.html import page
from detrigger.report.pictures import trigger_png
from detrigger.report.schema import Document
from detrigger.save import save_trigger, write_atomically
from detrigger.scan import Scan


def check_writable(folder: Path) -> None:
    """Make the folder and a passing file in it, before hours of work; raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".detrigger-")
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"{folder} cannot be written ({reason}); choose another --out") from error


def write_scan(
    folder: Path,
    scan: Scan,
    images: Images,
    model: Classifier,
    *,
    cleaning: Cleaning | None = None,
    matches: tuple[Match, ...] = (),
) -> Document:
    """report.json, report.html and triggers/ in a folder."""
    made = document(scan, cleaning=cleaning, matches=matches, model=model)
    for backdoor, entry in zip(scan.backdoors, made.backdoors, strict=True):
        (folder / entry.trigger).parent.mkdir(exist_ok=True)
        save_trigger(backdoor.trigger, folder / entry.trigger, target=backdoor.target, family=backdoor.family)
        write_atomically(folder / entry.picture, trigger_png(backdoor.trigger))
    html = page(made, scan, images, model, cleaning=cleaning, matches=matches)
    write_atomically(folder / "report.html", html.encode())
    write_atomically(folder / "report.json", encode(made))
    return made
