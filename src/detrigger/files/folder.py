"""A model folder of timm or Hugging Face: settings as JSON, weights as safetensors. Nothing is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detrigger.errors import ModelError

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
"""Names of the files that belong to a model; others in its folder are not looked at."""
_LARGEST_JSON = 1 << 24
_LARGEST, _MOST_LAYERS = 1 << 16, 1000
"""Any size, and a number of layers: a few bytes of JSON could ask for any amount of memory."""
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "quantization_config")
"""Settings by which a folder brings code of its own, or weights that are no floats."""


@dataclass(frozen=True)
class Folder:
    """What a model folder says."""

    kind: Literal["timm", "transformers"]
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    """Of preprocessor_config.json; empty without one."""
    weights: Path


def read(path: Path) -> Folder:
    """The settings in a folder.

    Raises ModelError for one without safetensors, with code of its own, or that is neither timm's nor
    Hugging Face's.
    """
    config = _json(path / CONFIG)
    for key in _CODE:
        if config.get(key):
            raise ModelError(
                f"{path} has {key!r} in its {CONFIG}: it brings code of its own, which is not run, or packed "
                f"weights; give its {WEIGHTS} with --arch"
            )
    if not (path / WEIGHTS).is_file():
        raise ModelError(f"{path} has no {WEIGHTS}; save it again as safetensors, in one file")
    _check_sizes(path, config)
    processor = _json(path / PROCESSOR) if (path / PROCESSOR).is_file() else {}
    if isinstance(config.get("architecture"), str):
        return Folder("timm", config, processor, path / WEIGHTS)
    if isinstance(config.get("model_type"), str):
        return Folder("transformers", config, processor, path / WEIGHTS)
    raise ModelError(
        f"{path / CONFIG} names neither a timm architecture nor a model_type; give its {WEIGHTS} with --arch"
    )


def members(path: Path) -> tuple[Path, ...]:
    """Files of a folder that belong to the model, sorted by name."""
    return tuple(path / name for name in sorted((CONFIG, PROCESSOR, WEIGHTS)) if (path / name).is_file())


def digest(path: Path) -> str:
    """SHA-256 of the files that belong to the model, one after the other by name, as hexadecimal digits."""
    total = hashlib.sha256()
    for member in members(path):
        try:
            with member.open("rb") as file:
                while part := file.read(1 << 24):
                    total.update(part)
        except OSError as error:
            raise ModelError(f"cannot read {member} ({error.strerror}); check its permissions") from error
    return total.hexdigest()


def _json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(f"{path} has more than {_LARGEST_JSON >> 20} MB; that is no model's settings")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); check the folder") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object; copy it again")
    return found


def _check_sizes(path: Path, config: Mapping[str, Any]) -> None:
    """Raises ModelError for sizes that no image classifier has."""
    for key, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        whole = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]
        layers = any(word in key for word in ("layers", "depth", "blocks"))
        if any(abs(n) > _LARGEST for n in whole) or (layers and sum(whole) > _MOST_LAYERS):
            raise ModelError(
                f"{path / CONFIG} has {key} {value}, which no image classifier has; is it damaged?"
            )
        if isinstance(value, dict) and key in {"model_args", "pretrained_cfg"}:
            _check_sizes(path, value)
