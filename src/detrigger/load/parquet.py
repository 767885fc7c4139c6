"""Labelled images from Parquet files, as the Hugging Face hub stores data sets."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detrigger.errors import DataError, UsageError
from detrigger.load.pictures import Listing, classes

_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label", "labels", "class")
_LARGE = 4 << 30
_RATIO = 100
"""A group of rows above `_LARGE` bytes that was packed more tightly than this is a bomb, not images."""


def listed(files: Sequence[Path]) -> Listing:
    """The rows of Parquet files: a column image (encoded bytes, or a struct with them) and one label.

    Names of classes are those that `datasets` wrote into the file, if any. Labels alone are read at first.
    Raises DataError for files of another kind, UsageError if pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow; pip install 'detrigger[parquet]'") from error
    opened: list[Any] = []
    labels: list[str] = []
    called: list[str] = []
    rows: list[tuple[int, int, int]] = []
    names: tuple[str, ...] = ()
    image = ""
    try:
        for number, file in enumerate(files):
            table = parquet.ParquetFile(file)
            _refuse_bombs(file, table.metadata)
            image, label = _columns(file, table.schema_arrow)
            names = names or _names(table.schema_arrow.metadata, label)
            found = table.read(columns=[label]).column(label).to_pylist()
            labels += [_text(file, i, value) for i, value in enumerate(found)]
            called += [f"{file}:{i}" for i in range(len(found))]
            opened.append(table)
            for group in range(table.num_row_groups):
                rows += ((number, group, row) for row in range(table.metadata.row_group(group).num_rows))
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # the last for names that are no UTF-8
        raise DataError(
            f"cannot read {file} as Parquet ({_line(error)}); copy or download it again"
        ) from error
    numbers, seen = classes(labels)

    def read(chosen: Sequence[int]) -> Iterator[io.BytesIO]:
        held: tuple[int, int] | None = None
        column: Any = None
        for i in chosen:
            number, group, row = rows[i]
            if (number, group) != held:  # one group of rows in memory at a time
                held, column = (number, group), _group(files[number], opened[number], group, image)
            try:
                value = column[row].as_py()
            except ValueError:  # a text that is no UTF-8
                value = None
            content = value.get("bytes") if isinstance(value, dict) else value
            yield io.BytesIO(content if isinstance(content, bytes) else b"")

    every = names if len(names) > max(numbers.values(), default=-1) else seen
    return Listing(called, [numbers[label] for label in labels], every, read)


def _columns(file: Path, schema: Any) -> tuple[str, str]:
    """Names of the columns with images and with labels."""
    found = []
    for known in (_IMAGES, _LABELS):
        name = next((each for each in known if each in schema.names), None)
        if name is None:
            raise DataError(
                f"{file} has no column {' or '.join(known)}, only {', '.join(schema.names)[:100]}; rename it"
            )
        found.append(name)
    return found[0], found[1]


def _names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """Names of the classes, from the note that `datasets` leaves in the schema."""
    try:
        told = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        names = told["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else ()


def _text(file: Path, row: int, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value in ("", -1):
        raise DataError(f"{file}: row {row} has the label {value!r}; wanted a class's number or name")
    return str(value)


def _refuse_bombs(file: Path, metadata: Any) -> None:
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size
        if size > max(_LARGE, _RATIO * file.stat().st_size):
            raise DataError(f"{file}: a group of rows would unpack to {size} bytes; refused")


def _group(file: Path, table: Any, group: int, image: str) -> Any:
    import pyarrow

    try:
        return table.read_row_group(group, columns=[image]).column(image)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot read {file} ({_line(error)}); copy or download it again") from error


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
