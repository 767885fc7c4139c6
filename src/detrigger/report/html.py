"""A scan as one HTML page that needs nothing else: no scripts, no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
import msgspec

from detrigger.clean import Cleaning
from detrigger.identify import Match
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report import charts, examples, words
from detrigger.report.alerts import acceptance
from detrigger.report.document import records
from detrigger.report.schema import ClassRecord, Document
from detrigger.scan import Scan


def page(
    document: Document,
    scan: Scan,
    images: Images,
    model: Classifier,
    *,
    cleaning: Cleaning | None = None,
    matches: Sequence[Match] = (),
) -> str:
    """The page. Every figure in it is one of `document`; `scan`, `images` and `model` give the pictures.

    `cleaning` adds what the repaired model says about the stamped images. `matches`, if given, are shown
    in place of the document's identification.
    """
    if matches:
        document = msgspec.structs.replace(document, identification=records(matches))
    repaired = cleaning.model if cleaning is not None and cleaning.repaired else None
    shown = [examples.show(b, images, model, repaired) for b in scan.backdoors[: examples.TRIGGERS]]
    main = [b in words.main(document) for b in document.backdoors[: len(shown)]]
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=document,
            unit=words.unit(document.family),
            sizes=charts.sizes(document.classes),
            evidence=_evidence(document),
            columns=_columns(document),
            shown=[s for s, first in zip(shown, main, strict=True) if first],
            secondary=[s for s, first in zip(shown, main, strict=True) if not first],
            not_shown=max(0, len(scan.backdoors) - examples.TRIGGERS),
            config=msgspec.json.format(msgspec.json.encode(document.config), indent=2).decode(),
        )
    )


def templates(*folders: Path) -> jinja2.Environment:
    """Templates in these folders and beside this file; everything escaped, what is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _environment() -> jinja2.Environment:
    environment = templates()
    environment.filters |= {
        "printable": words.printable,
        "percent": words.percent,
        "points": words.points,
        "number": words.number,
        "probability": words.probability,
        "tenth": words.tenth,
        "duration": words.duration,
    }
    environment.globals |= {
        "verdict": words.verdict,
        "why": words.why,
        "standing": words.standing,
        "acceptance": acceptance,
        "repair": words.repair,
        "certificate": words.certificate,
        "called": words.called,
        "unit_of": words.unit,
        "curves": charts.curves,
        "worst": _worst,
    }
    return environment


def _evidence(document: Document) -> list[ClassRecord]:
    ordered = sorted(document.classes, key=words.suspicion)
    return ordered if len(ordered) <= charts.ALL else ordered[: charts.SMALLEST]


def _columns(document: Document) -> list[str]:
    """Names of further evidence, in the order in which they first come up."""
    told = {f"{document.family} {figure}" for figure in ("size", "score", "success")}
    names = dict.fromkeys(key for record in document.classes for key in record.evidence)
    return [name for name in names if name not in told]


def _worst(drops: dict[str, float | None]) -> tuple[str, float | None]:
    """The class that lost most recall, and how much."""
    known = {name: drop for name, drop in drops.items() if drop is not None}
    return max(known.items(), key=lambda item: item[1], default=("", None))
