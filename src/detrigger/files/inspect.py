"""What a model file is and what it would do, told without running anything of it."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detrigger.errors import ModelError
from detrigger.files import safetensors_header
from detrigger.files.archive import (
    LIMIT,
    Contents,
    Finding,
    hidden,
    in_archive,
    in_array,
    in_hdf5,
    in_pickle,
    in_tar,
)
from detrigger.files.checkpoint import describe
from detrigger.files.judge import WouldRun
from detrigger.files.sniff import Format, sniff

_ARCHIVES = ("state-dict", "torchscript", "pt2", "keras", "npz", "zip", "damaged-zip")
_CHECKPOINTS = ("state-dict", "legacy-state-dict", "torchscript", "pt2")
_PICKLES = 5
"""In a file of before PyTorch 1.6: magic number, version, system, weights, keys; then raw values."""
_PROGRAMS = {
    "torchscript": Finding(
        "medium", "it is a program: torch.jit.load and every use of the model run the code that is in it"
    ),
    "pt2": Finding(
        "low", "torch.export.load would open its pickles without limits and evaluate text of its graph"
    ),
    "pickle": Finding("low", "pickle.load would do whatever it asks for"),
}
"""What to know of formats that are more than tensors."""


_IN: dict[str, Callable[[io.BufferedIOBase], Contents]] = {
    "npy": lambda file: in_array(file.read(LIMIT)),
    "hdf5": lambda file: in_hdf5(file.read(LIMIT)),
    "tar": in_tar,
}
"""How to look into other formats in which there may be code."""


@dataclass(frozen=True)
class Inspection:
    """What a file is, what it holds, and what it would run."""

    path: str
    format: str
    description: str
    """The format in words."""
    size_bytes: int
    sha256: str
    """Of the file's bytes; empty for a folder."""
    tensors: tuple[tuple[str, tuple[int, ...], str], ...]
    """Name, shape, type of the values; empty where there are none to be read."""
    parameters: int
    """Values in all tensors."""
    would_run: tuple[WouldRun, ...]
    """What its pickles would import, make and call besides plain tensors."""
    findings: tuple[Finding, ...]
    dangerous: bool
    """Opening it with ordinary tools could run code of a kind that is not known, or it could not be made out
    what it would run: anything of `medium` or `high` severity."""


def inspect_file(path: Path | str) -> Inspection:
    """What a model file is, which tensors it holds, and what it would run if it were opened.

    Nothing is run: pickles are read as text, archives listed within limits of memory.
    Raises ModelError if there is no such file, or it cannot be read.
    """
    path = Path(path)
    kind = sniff(path)
    held = contents(path, kind)
    tensors, findings = _listed(path, kind)
    found = (*held.findings, *findings)
    return Inspection(
        str(path),
        kind.name,
        kind.description,
        size_bytes=0 if path.is_dir() else path.stat().st_size,
        sha256="" if path.is_dir() else sha256(path),
        tensors=tensors,
        parameters=sum(math.prod(shape) for _, shape, _ in tensors),
        would_run=held.would_run,
        findings=found,
        dangerous=not {f.severity for f in found} | {r.severity for r in held.would_run} <= {"low"},
    )


def contents(path: Path, kind: Format) -> Contents:
    """What is in a file that may hold pickles; nothing in others. Raises ModelError if it cannot be read."""
    if path.is_dir():
        return Contents()
    try:
        with path.open("rb") as file:
            found = Contents()
            if kind.name in _ARCHIVES:
                found = in_archive(file)
            elif kind.name == "legacy-state-dict":
                found = in_pickle(file.read(LIMIT), at_most=_PICKLES)
            elif kind.name == "pickle":
                found = in_pickle(file.read(LIMIT))
            else:
                found = _IN[kind.name](file) if kind.name in _IN else Contents()
                file.seek(0)
                found = Contents((*found.would_run, *hidden(file)), found.findings)
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    run = found.would_run
    if kind.name == "torchscript":  # classes of its own code, which `_PROGRAMS` tells of
        run = tuple(each for each in run if not each.name.startswith("__torch__."))
    told = (_PROGRAMS[kind.name],) if kind.name in _PROGRAMS else ()
    return Contents(run, (*told, *found.findings))


def _listed(
    path: Path, kind: Format
) -> tuple[tuple[tuple[str, tuple[int, ...], str], ...], tuple[Finding, ...]]:
    """Name, shape and type of each tensor of a weights file, and findings."""
    if kind.name == "safetensors":
        header = safetensors_header.header(path)
        return header.tensors, tuple(Finding("low", sentence) for sentence in header.findings)
    if kind.name not in _CHECKPOINTS:
        return (), ()
    try:
        described = describe(path, kind.name).described
    except ModelError as error:
        return (), (Finding("low", str(error)),)
    tensors = tuple((name, tensor.shape, tensor.dtype) for name, tensor in described.tensors.items())
    return tensors, tuple(Finding("low", note) for note in described.notes)


def sha256(path: Path) -> str:
    """Of a file's bytes, as hexadecimal digits. Raises ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); check its permissions") from error
