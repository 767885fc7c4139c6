"""What the files of a model say about the images it wants, and what its classes are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detrigger.errors import ModelError
from detrigger.files.folder import PROCESSOR, Folder
from detrigger.model import Preprocessing

_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Numbers that Pillow gives them."""
_KNOWN = {"nearest", "bilinear", "bicubic"}


@dataclass(frozen=True)
class Metadata:
    """What is known; defaults where nothing is told."""

    preprocessing: Preprocessing | None = None
    size: int | None = None
    """Side of the square images, in pixels."""
    kept: float = 1.0
    """Share of the shorter side that the square keeps; 0 to 1."""
    interpolation: str = "bilinear"
    classes: tuple[str, ...] = ()
    """Names, in the order of the outputs."""
    notes: tuple[str, ...] = ()
    """Where it was found, one sentence each."""


def of_folder(folder: Folder) -> Metadata:
    """What a folder of timm or Hugging Face says. Raises ModelError for figures that cannot be."""
    return _timm(folder.config) if folder.kind == "timm" else _transformers(folder)


def _timm(config: Mapping[str, Any]) -> Metadata:
    told = _settings(config.get("pretrained_cfg"))
    sides = told.get("input_size")
    interpolation = str(told.get("interpolation", "bilinear"))
    return Metadata(
        _preprocessing(told.get("mean"), told.get("std"), 1.0),
        _side(sides[-1:]) if isinstance(sides, list) else None,
        _share(told.get("crop_pct", 1.0)),
        interpolation if interpolation in _KNOWN else "bilinear",
        _names(config.get("label_names") or told.get("label_names")),
        ("preprocessing is that of its pretrained_cfg",) if told.get("mean") else (),
    )


def _transformers(folder: Folder) -> Metadata:
    told, factor = folder.processor, folder.processor.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or not 0 < factor <= 1:
        raise ModelError(
            f"its {PROCESSOR} has a rescale_factor of {factor!r}, wanted a number above 0, at most 1"
        )
    classes = _names(folder.config.get("id2label"))
    if not told:
        return Metadata(size=_side(folder.config.get("image_size")), classes=classes)
    scale = 255.0 * (factor if told.get("do_rescale", True) else 1.0)
    normal = told.get("do_normalize", True)
    mean, std = (told.get(f"image_{key}") if normal else None for key in ("mean", "std"))
    resized = _side(told.get("size"))
    cut = _side(told.get("crop_size")) if told.get("do_center_crop") else None
    kept = cut / resized if cut and resized and cut < resized else 1.0
    if "crop_pct" in told and resized and resized < 384:  # as ConvNeXT's own preprocessing
        kept = _share(told["crop_pct"])
    return Metadata(
        _preprocessing(mean, std, scale),
        cut or resized or _side(folder.config.get("image_size")),
        kept,
        _RESAMPLING.get(told.get("resample", 2), "bilinear"),
        classes,
        (f"preprocessing is that of its {PROCESSOR}",),
    )


def _preprocessing(mean: Any, std: Any, scale: float) -> Preprocessing | None:
    """For pixels in [0, 1], which the model multiplies by `scale` first."""
    if mean is None and std is None and scale == 1:
        return None
    means, stds = ((v if isinstance(v, list | tuple) else [v]) for v in (mean or 0.0, std or 1.0))
    try:
        made = Preprocessing(tuple(m / scale for m in means), tuple(s / scale for s in stds))
        fine = all(map(math.isfinite, (*made.mean, *made.std))) and min(made.std) > 0
    except (TypeError, ZeroDivisionError):
        fine = False
    if not fine or {len(means), len(stds)} - {1, 3}:
        raise ModelError(
            f"its preprocessing has mean {mean} and std {std}, wanted one number, or three, std above 0; "
            "correct its files, or give its weights alone with --arch, --mean and --std"
        )
    return made


def _settings(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _share(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0.1 <= value <= 1 else 1.0


def _side(value: Any) -> int | None:
    """From a number, or what processors write in its place."""
    if isinstance(value, Mapping):
        value = value.get("shortest_edge") or value.get("height")
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, int) and value > 0 else None


def _names(value: Any) -> tuple[str, ...]:
    """Names by number, or in a list; none if they say no more than the number."""
    if isinstance(value, Mapping):
        numbered = {int(key): str(name) for key, name in value.items() if str(key).isdecimal()}
        value = (
            [numbered[i] for i in range(len(numbered))]
            if numbered.keys() == set(range(len(numbered)))
            else []
        )
    names = tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    told_nothing = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return () if told_nothing or len(set(names)) < len(names) else names
