"""What the header of a safetensors file says, and whether it is honest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIMIT = 25_000_000
"""Largest header, in bytes: a quarter of what the reference implementation reads."""
_LARGEST = 2**62
_DIMENSIONS = 32

_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
}
"""Name in PyTorch and bytes of one value."""


@dataclass(frozen=True)
class Header:
    """What the header of a safetensors file says."""

    tensors: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    """Name, shape, type of the values."""
    metadata: Mapping[str, str] | None = None
    findings: tuple[str, ...] = ()
    """What is wrong with it, one sentence each; empty if nothing is."""


def header(path: Path) -> Header:
    """Read and check the header alone: length, types, and that the tensors fill the file without overlap."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return Header(
                findings=(f"the header claims {length} bytes, but the file has {size}: truncated or made up",)
            )
        if length > _LIMIT:
            return Header(findings=(f"the header has {length} bytes, at most {_LIMIT} are read",))
        text = file.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return Header(findings=(f"the header is not valid JSON ({error})",))
    if not isinstance(entries, dict):
        return Header(findings=("the header is not a JSON object",))
    metadata = entries.pop("__metadata__", None)
    tensors, spans, findings = [], [], list[str]()
    for name, entry in entries.items():
        problem = _problem(entry)
        if problem or name != name.encode("utf-8", "ignore").decode():
            findings.append(f"tensor {name[:100]!a}: {problem or 'its name is no text'}")
            continue
        tensors.append((name, tuple(entry["shape"]), _DTYPES[entry["dtype"]][0]))
        spans.append((*entry["data_offsets"], name))
    findings += _layout(sorted(spans), size - 8 - length)
    return Header(tuple(tensors), metadata if isinstance(metadata, dict) else None, tuple(findings))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys differ: of equal ones, readers may take different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _problem(entry: Any) -> str:
    """What is wrong with one entry by itself."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return "the header lacks its dtype, shape or data_offsets"
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if not all(type(n) is int and 0 <= n < _LARGEST for n in numbers) or len(offsets) != 2:
        return "its shape or offsets are not whole numbers from 0"
    if len(shape) > _DIMENSIONS:
        return f"it has {len(shape)} dimensions, at most {_DIMENSIONS} are read"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        return f"its values are of type {entry['dtype']!r}, which is not known"
    wanted = math.prod(shape) * _DTYPES[entry["dtype"]][1]
    if offsets[1] - offsets[0] != wanted:
        return f"its shape needs {wanted} bytes, its offsets give {offsets[1] - offsets[0]}"
    return ""


def _layout(spans: list[tuple[int, int, str]], size: int) -> list[str]:
    """What is wrong with all together; `size` is that of the file after the header."""
    findings, end = [], 0
    for start, stop, name in spans:
        if start < end:
            findings.append(f"tensor {name} overlaps the one before it")
        elif start > end:
            findings.append(f"{start - end} bytes before tensor {name} belong to no tensor")
        end = max(end, stop)
    if end > size:
        findings.append(f"the tensors need {end} bytes, the file holds {size}: it is truncated")
    elif end < size:
        findings.append(f"{size - end} bytes at the end of the file belong to no tensor")
    return findings
