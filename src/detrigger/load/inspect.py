"""What a model file is and what it would do, told without running anything of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from detrigger.files.pickles import Contents, Global
from detrigger.files.sniff import sniff
from detrigger.load import contents, listed, sha256

_PROGRAMS = {
    "torchscript": ("it is a program: torch.jit.load and every use of the model run what is in it",),
    "pt2": ("torch.export.load would open its pickles without limits and evaluate text of its graph",),
    "pickle": ("pickle.load would run whatever it asks for",),
}
"""What to know of formats that are more than tensors."""


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
    """Name, shape, type of the values; empty where they cannot be listed without running the file."""
    parameters: int
    """Values in all tensors."""
    would_run: tuple[Global, ...]
    """What its pickles would import besides plain tensors."""
    findings: tuple[str, ...]
    """One sentence each."""
    dangerous: bool
    """Opening it with ordinary tools could run code, or what it would run could not be made out."""


def inspect_file(path: Path | str) -> Inspection:
    """What a model file is, which tensors it holds, and what it would run if it were opened.

    Nothing is run: pickles are read as text, archives listed within limits of memory.
    Raises ModelError if there is no such file, or it cannot be read.
    """
    path = Path(path)
    kind = sniff(path)
    held = Contents() if path.is_dir() else contents(path, kind)
    dangerous = bool(held.would_run) or held.unsafe
    tensors, findings = ((), ()) if dangerous else listed(path, kind)
    return Inspection(
        str(path),
        kind.name,
        kind.description,
        size_bytes=0 if path.is_dir() else path.stat().st_size,
        sha256="" if path.is_dir() else sha256(path),
        tensors=tensors,
        parameters=sum(math.prod(shape) for _, shape, _ in tensors),
        would_run=held.would_run,
        findings=(*_PROGRAMS.get(kind.name, ()), *held.findings, *findings),
        dangerous=dangerous,
    )
