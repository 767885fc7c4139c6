"""Labelled images from a list of paths and labels: CSV, JSON lines, or a Hugging Face image folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from detrigger.errors import DataError
from detrigger.load.pictures import Listing, classes, inside

METADATA = ("metadata.csv", "metadata.jsonl")
"""Names of the list in a Hugging Face image folder."""
_PATHS = ("path", "file_name", "filename", "file", "image")
_LABELS = ("label", "class", "target")
_LARGE = 1 << 30

Row = dict[str, object]


def listed(path: Path, format: str) -> Listing:
    """The images of a manifest in format `csv` (with a heading) or `jsonl`: columns path and label.

    Paths are relative to the manifest's folder and stay in it. Labels are names or numbers of classes.
    Raises DataError for a manifest that is not of this kind.
    """
    if path.stat().st_size > _LARGE:
        raise DataError(f"{path} has more than {_LARGE} bytes; give a shorter list")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_csv(text) if format == "csv" else _jsonl(text))
    except (ValueError, RecursionError, csv.Error, OSError) as error:
        raise DataError(f"cannot read {path} as {format} ({error}); wanted columns path and label") from error
    if not rows:
        raise DataError(f"{path} lists no images; wanted lines with path and label")
    paths, labels = _column(path, rows, _PATHS), _column(path, rows, _LABELS)
    for name in paths:
        inside(name)
    numbers, names = classes(labels)
    folder = path.parent.resolve()

    def read(chosen: Sequence[int]) -> Iterator[Path]:
        for i in chosen:
            file = (folder / inside(paths[i])).resolve()
            if not file.is_relative_to(folder):
                raise DataError(f"{paths[i]} of {path} is a link out of {folder}, which is refused; copy it")
            yield file

    return Listing(paths, [numbers[label] for label in labels], names, read)


def _csv(text: str) -> Iterator[Row]:
    heading = text.partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)
    return (dict(row) for row in csv.DictReader(io.StringIO(text), delimiter=delimiter))


def _jsonl(text: str) -> Iterator[Row]:
    for line in text.splitlines():
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:40]!r} is not an object")
            yield row


def _column(path: Path, rows: list[Row], known: tuple[str, ...]) -> list[str]:
    key = next((name for name in known if name in rows[0]), None)
    if key is None:
        got = ", ".join(str(name) for name in rows[0])[:100]
        raise DataError(f"{path} has no {known[0]} ({' or '.join(known)}), only {got}; name its columns so")
    values = [row.get(key) for row in rows]
    for number, value in enumerate(values, 1):
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise DataError(f"{path}: entry {number} has {value!r} for {key}; wanted a text or whole number")
    return [str(value) for value in values]
