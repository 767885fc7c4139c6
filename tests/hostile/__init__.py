"""Files that would do harm if they were opened carelessly: each would create a marker file."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from nets import NET


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def checkpoint(path: Path, marker: Path, **options: Any) -> Path:
    """A state dict with a payload beside it."""
    torch.save({"state_dict": NET.state_dict(), "epoch": Payload(marker)}, path, **options)
    return path


def plain_pickle(path: Path, marker: Path, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    return path


def from_memo() -> bytes:
    """A pickle that puts the name of its global together from the memo (STACK_GLOBAL on fetched strings)."""
    return b"\x80\x04\x8c\x06system\x94\x8c\x02os\x940h\x01h\x00\x93\x8c\x04true\x85R."


def unknown_name() -> bytes:
    """A pickle whose global is the element of a tuple, so that its name stands nowhere on the stack."""
    return b"\x80\x04\x8c\x02os\x85\x8c\x06system\x93."


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return path


def with_payload_inside(path: Path, marker: Path) -> Path:
    """A .pt2 whose sample inputs run the payload: torch.export.load falls back to unlimited pickle."""
    buffer = io.BytesIO()
    torch.save(Payload(marker), buffer)
    return archive(
        path,
        {
            "m/archive_format": b"pt2",
            "m/models/model.json": b"{}",
            "m/data/sample_inputs/model.pt": buffer.getvalue(),
        },
    )
