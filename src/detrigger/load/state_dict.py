"""Tensors from PyTorch's own files, put together from their bytes: nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from detrigger.errors import ModelError
from detrigger.files.checkpoint import Checkpoint, describe, stored_bytes
from detrigger.files.described import Stored


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], Checkpoint]:
    """The tensors of a file of format `state-dict`, `legacy-state-dict`, `torchscript` or `pt2`, on the CPU.

    Those that share memory in the file share it here. Raises ModelError for a file that is damaged, or holds
    no weights.
    """
    found = describe(path, kind)
    values = dict(stored_bytes(path, found))
    try:
        tensors = {name: _tensor(each, values[each.place]) for name, each in found.described.tensors.items()}
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot make tensors of {path} ({reason}); save it again") from error
    return tensors, found


def _tensor(stored: Stored, data: bytearray) -> Tensor:
    dtype: torch.dtype = getattr(torch, stored.dtype)
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.as_strided(stored.shape, stored.strides, stored.offset)
