"""A bench as one HTML page that needs nothing else, in the style of the scanner's report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import jinja2
import torch

from detrigger.bench.figures import Bin
from detrigger.bench.make import Record
from detrigger.bench.sealed import Card, Sealed
from detrigger.bench.summary import Figures, Summary
from detrigger.bench.truth import Row, judge_images
from detrigger.load import load_trigger
from detrigger.report import words
from detrigger.report.html import templates
from detrigger.report.pictures import png, trigger_png

SIDE = 72
"""Pixels of a picture."""


@dataclass(frozen=True)
class Shown:
    """Pictures of one model, as addresses that hold their content; empty where there is none."""

    planted: str = ""
    """The first planted trigger on mid-grey."""
    example: str = ""
    """It on an image."""
    found: str = ""
    """The first trigger that was found, on mid-grey."""


@dataclass(frozen=True)
class Point:
    """Of a chart, in per cent of its width and height, from the upper left; `size` is a radius in pixels."""

    x: float
    y: float
    size: float = 0.0


def shown(zoo: Path, record: Record, card: Card, given: Sealed, triggers: ModuleType) -> Shown:
    """The pictures of a model."""
    found = card.scan.backdoors[:1]
    picture = ""
    if found:
        trigger, _ = load_trigger(given.card.parent / found[0].trigger)
        picture = _address(trigger_png(trigger, side=SIDE))
    if not record["backdoored"]:
        return Shown(found=picture)
    images = judge_images(zoo, record, tuple(str(i) for i in range(record["num_classes"])))
    mask, _ = triggers.victims(record, images.y, 0)
    example = images.x[mask][:1]
    stamped = triggers.apply(record, torch.cat([torch.full_like(example, 0.5), example]), 0)
    planted, on_image = (_address(png(x, side=SIDE)) for x in stamped)
    return Shown(planted, on_image, picture)


def page(name: str, rows: Sequence[Row], summary: Summary, pictures: Sequence[Shown]) -> str:
    """The page; one line for each row, with its pictures."""
    groups = {"Attack": summary.by_attack, "Data set": summary.by_dataset, "Network": summary.by_arch}
    parts: dict[str, Figures] = {
        "Without weak models": summary.ordinary,
        "All models": summary.everything,
        "Weak models beside the clean": summary.weak,
    }
    lines = sorted(zip(rows, pictures, strict=True), key=lambda line: -line[0].probability)
    template = _environment().get_template("zoo.html")
    return template.render(
        name=name,
        parts=parts,
        groups=groups,
        summary=summary,
        lines=lines,
        roc=list(pairwise(_curve(summary.roc))),
        bins=_dots(summary.reliability),
    )


def _curve(points: Sequence[tuple[float, float]]) -> list[Point]:
    """As stairs, for no threshold gives what lies between two points."""
    stairs = []
    for (before, _), (false, true) in zip([(0.0, 0.0), *points], points, strict=False):
        stairs += [Point(100 * before, 100 - 100 * true), Point(100 * false, 100 - 100 * true)]
    return stairs


def _dots(bins: Sequence[Bin]) -> list[Point]:
    """Area in proportion to the number of models."""
    return [
        Point(100 * b.probability, 100 - 100 * b.backdoored, 3 + 1.5 * b.count**0.5) for b in bins if b.count
    ]


def _environment() -> jinja2.Environment:
    environment = templates(Path(__file__).parent)
    environment.filters |= {
        "printable": words.printable,
        "percent": words.percent,
        "number": words.number,
        "duration": words.duration,
    }
    return environment


def _address(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
