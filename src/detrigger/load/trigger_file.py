"""Triggers from safetensors files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from detrigger.errors import DataError
from detrigger.trigger import FAMILIES, Trigger


def load_trigger(path: Path | str) -> tuple[Trigger, dict[str, str]]:
    """A trigger from a .safetensors file, and its metadata: `family` and, where known, `target`.

    Raises DataError for a file that is missing, damaged or not a trigger.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DataError(f"there is no trigger file {path}; check the path") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read {path} as safetensors ({error}); wanted a saved trigger") from error
    family = metadata.get("family", "")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise DataError(
            f"{path} is of family {family!r}, wanted a trigger of one of {known}; save it with family"
        )
    return FAMILIES[family].load(tensors), metadata
