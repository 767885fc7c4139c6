"""Telling a report on stdout in the format asked for, and to the pipeline that runs this."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import RenderableType

from detrigger.cli.console import emit, show, write
from detrigger.report.document import encode
from detrigger.report.formats import FORMATS
from detrigger.report.many import Summary, encode_summary, table
from detrigger.report.schema import Document

Format = Literal["text", "json", "sarif", "junit", "markdown", "cyclonedx"]

WORKSPACE, SUMMARY = "GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY"
"""Environment variables of GitHub Actions: folder of the repository, file that a step's summary is put to."""


def tell(report: Document, format: Format, text: RenderableType) -> None:
    """A report on stdout, `text` being the one for people; and Markdown to the summary of a GitHub step."""
    if format == "text":
        show(text)
    elif format == "json":
        emit(encode(report))
    else:
        write(FORMATS[format].render([report], root()))
    _summarise([report])


def tell_many(summary: Summary, reports: Sequence[Document], format: Format) -> None:
    """What became of several models, as `tell` does for one. Formats for pipelines need a report."""
    if format == "text":
        show(table(summary))
    elif format == "json":
        emit(encode_summary(summary))
    elif reports:
        write(FORMATS[format].render(reports, root()))
    if reports:
        _summarise(reports)


def root() -> Path:
    """Folder of the repository that this runs in, as far as one can see; else the current folder."""
    if workspace := os.environ.get(WORKSPACE):
        return Path(workspace)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def _summarise(reports: Sequence[Document]) -> None:
    if not (path := os.environ.get(SUMMARY)):
        return
    try:
        with open(path, "a", encoding="utf-8") as summary:
            summary.write(FORMATS["markdown"].render(reports, root()))
    except OSError as error:
        # the verdict is what matters: exit code and report stay as they are
        reason = error.strerror or type(error).__name__
        sys.stderr.write(f"detrigger: no summary written to {SUMMARY} ({reason})\n")
