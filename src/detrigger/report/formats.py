"""Formats for pipelines in which reports can be told, besides report.json, text and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrigger.report.bom import bom
from detrigger.report.junit import junit
from detrigger.report.markdown import markdown
from detrigger.report.sarif import sarif
from detrigger.report.schema import Document


@dataclass(frozen=True)
class Format:
    """How some reports are told to one kind of reader."""

    file: str
    """Name of the file in the folder of a scan."""
    render: Callable[[Sequence[Document], Path], str]
    """Content, given the reports (at least one) and the folder of the repository."""


FORMATS = {
    "sarif": Format("report.sarif", sarif),
    "junit": Format("report.junit.xml", junit),
    "markdown": Format("report.md", markdown),
    "cyclonedx": Format("report.cdx.json", bom),
}
