"""Tensors from a safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detrigger.errors import ModelError
from detrigger.files.safetensors_header import header


def read(path: Path) -> dict[str, Tensor]:
    """All tensors, on the CPU, as they are in the file.

    Raises ModelError for a file that is truncated or otherwise not a sound safetensors file.
    """
    findings = header(path).findings
    if findings:
        raise ModelError(f"{path} is a damaged safetensors file: {findings[0]}; copy or download it again")
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"cannot read {path} as safetensors ({error}); copy or download it again") from error
