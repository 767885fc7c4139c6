"""Labelled images from a NumPy archive."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from detrigger.errors import DataError

_MOST_CLASSES = 100_000
_LARGE = 4 << 30
_RATIO = 100
"""A member above `_LARGE` bytes that was packed more tightly than this is a bomb, not images."""

_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    SyntaxError,
    TypeError,
    LookupError,
    OverflowError,
)
"""What NumPy and zipfile make of damaged bytes, beside ValueError: headers of arrays are Python literals."""

Array = NDArray[Any]


def read(path: Path) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"], tuple[str, ...]]:
    """Images in [0, 1], labels, and names of the classes (from key `names`, else their numbers).

    Key `x`: uint8, or floats in [0, 1]; n×h×w, n×h×w×c or n×c×h×w with c = 1 or 3. Key `y`: n whole numbers.
    Raises DataError for anything else; arrays of Python objects are refused, for to read them is to run them.
    """
    arrays = _arrays(path)
    x, y = _images(path, arrays["x"]), _labels(path, arrays["y"])
    if len(x) != len(y):
        raise DataError(f"{path}: x has {len(x)} images, y has {len(y)} labels; each image needs one label")
    return x, y, _names(path, arrays.get("names"), int(y.max()) if len(y) else -1)


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as packed:
            for member in packed.infolist():
                if member.file_size > _LARGE and member.file_size > _RATIO * member.compress_size:
                    raise DataError(
                        f"{path}: {member.filename} would unpack to {member.file_size} bytes; refused"
                    )
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("x", "y") if key not in archive]
            if missing:
                raise DataError(
                    f"{path} has no array {' or '.join(missing)}, only {', '.join(archive.files) or 'none'}; "
                    "wanted x (images) and y (labels)"
                )
            arrays = {key: archive[key] for key in ("x", "y", "names") if key in archive}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds an array of Python objects, which is not opened, for that could run code; "
                "save plain numbers (and names as text)"
            ) from error
        raise _damaged(path, error) from error
    except _ERRORS as error:
        raise _damaged(path, error) from error
    return _checked(path, arrays)


def _checked(path: Path, arrays: dict[str, Any]) -> dict[str, Array]:
    """A member without the mark of an array comes as bytes."""
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise DataError(f"{path}: {key} is no NumPy array; save it again with numpy.savez")
    return arrays


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path} ({str(error).strip().splitlines()[:1]}); copy or save it again")


def _images(path: Path, x: Array) -> Float[Tensor, "n c h w"]:
    shape = "×".join(map(str, x.shape))
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{path}: x is of type {x.dtype}, wanted uint8, or floats in [0, 1]")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        raise DataError(f"{path}: x is {shape}, wanted n×h×w, n×h×w×c or n×c×h×w with c = 1 or 3")
    if x.shape[3] in (1, 3):
        x = np.moveaxis(x, 3, 1)
    scale = 255 if x.dtype == np.uint8 else 1
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) / scale


def _labels(path: Path, y: Array) -> Int[Tensor, " n"]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iuf":
        raise DataError(f"{path}: y is {y.dtype} of shape {y.shape}, wanted one whole number per image")
    odd = y[~((y >= 0) & (y < _MOST_CLASSES) & (y == np.floor(y)))]  # true for NaN also
    if len(odd):
        raise DataError(f"{path}: y holds the label {odd[0]}, wanted whole numbers from 0 to classes - 1")
    return torch.from_numpy(y.astype(np.int64))


def _names(path: Path, names: Array | None, highest: int) -> tuple[str, ...]:
    if names is None or not names.size:
        return tuple(str(i) for i in range(highest + 1))
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) <= highest:
        raise DataError(
            f"{path}: names is {names.dtype} of shape {names.shape}, "
            f"wanted one text per class for labels up to {highest}"
        )
    return tuple(str(name) for name in names)
