"""Weights in PyTorch's own files: which tensors there are, and the bytes of their values."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrigger.errors import ModelError
from detrigger.files.archive import LIMIT
from detrigger.files.described import SIZES, Described, Stored, Undescribed, checked, storage, weights
from detrigger.files.machine import Machine, Unreadable
from detrigger.files.zips import Damaged, misplaced, opened, read

_SPARE = 64 << 20
_TIMES = 8
"""Tensors may take this many times the size of their file, and `_SPARE` bytes more: else they are made to
fill the memory, by packed zeros or by views of the same values."""
_LONGEST = 1000
"""Characters of a name."""
_HEADER = 3
"""Pickles before the weights in files of before PyTorch 1.6: magic number, version, system."""
_EXPORTED = {
    **dict(enumerate(["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"], 1)),
    **dict(enumerate(["complex32", "complex64", "complex128", "bool", "bfloat16"], 9)),
    28: "uint16",
    **dict(enumerate(["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"], 29)),
}
"""Types of values by their number in torch.export's schema."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and where their values are."""

    described: Described
    places: dict[str, tuple[str, int, int]]
    """Of each place: member of the archive (empty if it is none), first byte, number of bytes."""


def describe(path: Path, kind: str) -> Checkpoint:
    """The tensors of a file of format `state-dict`, `legacy-state-dict`, `torchscript` or `pt2`.

    Nothing is run. Raises ModelError if there are none, or they are not as they should be.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if kind == "legacy-state-dict":
                found = _old(file, size)
            else:
                with opened(file) as archive:
                    if misplaced(file, archive):
                        raise Damaged("it has bytes in front of it")
                    found = _exported(archive) if kind == "pt2" else _saved(archive)
        _check(found.described.tensors, size)
    except Undescribed as error:
        raise ModelError(f"{path} holds {error}") from error
    except (Unreadable, Damaged, OSError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return found


def stored_bytes(path: Path, checkpoint: Checkpoint) -> Iterator[tuple[str, bytearray]]:
    """The values of each place. Raises ModelError if they are not all there."""
    used = {tensor.place for tensor in checkpoint.described.tensors.values()}
    try:
        with path.open("rb") as file:
            if not any(member for member, _, _ in checkpoint.places.values()):
                for place in used:
                    _, first, size = checkpoint.places[place]
                    file.seek(first)
                    yield place, _whole(file.read(size), size)
                return
            with opened(file) as archive:
                for place in used:
                    member, _, size = checkpoint.places[place]
                    yield place, _whole(read(archive, archive.getinfo(member), size + 1), size)
    except (Damaged, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelError(f"cannot read {path} as a PyTorch checkpoint ({reason}); copy or save it again")


def _whole(data: bytes, size: int) -> bytearray:
    if len(data) != size:
        raise Damaged(f"{len(data)} bytes of values where {size} are wanted")
    return bytearray(data)


def _check(tensors: dict[str, Stored], size: int) -> None:
    total = 0
    for name, tensor in tensors.items():
        if len(name) > _LONGEST or not name.encode("utf-8", "ignore").decode() == name:
            raise Undescribed("a tensor whose name is no text; save it again")
        count = SIZES[tensor.dtype]
        for length in tensor.shape:
            count *= length
        total += max(count, tensor.values * SIZES[tensor.dtype])
    if total > _TIMES * size + _SPARE:
        raise Undescribed(f"{size} bytes that claim to be tensors of {total}; this is no honest model file")


def _saved(archive: zipfile.ZipFile) -> Checkpoint:
    """As torch.save and torch.jit.save write it."""
    root = next(
        (n.removesuffix("data.pkl") for n in archive.namelist() if n.partition("/")[2] == "data.pkl"), ""
    )
    inside = {member.filename: member for member in archive.infolist()}
    if not root:
        raise Damaged("it lacks data.pkl")
    if (order := inside.get(f"{root}byteorder")) and read(archive, order, 10) != b"little":
        raise Undescribed(
            "values in big-endian order, wanted little-endian; save it again on a common machine"
        )
    described = weights(_pickled(read(archive, inside[f"{root}data.pkl"], LIMIT)))
    places = {}
    for name, tensor in described.tensors.items():
        member = f"{root}data/{tensor.place}"
        found, wanted = inside.get(member), tensor.values * SIZES[tensor.dtype]
        if found is None or found.file_size != wanted:
            got = f"has {found.file_size} bytes" if found else "is missing"
            raise Damaged(f"the member {member} with the values of {name} {got}, wanted {wanted}")
        places[tensor.place] = (member, 0, wanted)
    return Checkpoint(described, places)


def _pickled(data: bytes) -> object:
    return Machine().read(io.BytesIO(data))


def _old(file: io.BufferedIOBase, size: int) -> Checkpoint:
    """As torch.save wrote it before 1.6: pickles, then the values one after the other."""
    machine, stream = Machine(), io.BytesIO(file.read(LIMIT))
    for _ in range(_HEADER):
        machine.read(stream)
    described, keys = weights(machine.read(stream)), machine.read(stream)
    at = stream.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Damaged("its list of values is none")
    stored = {found[1]: found for outside in machine.outside if (found := storage(outside))}
    places = {}
    for key in keys:
        file.seek(at)
        count = int.from_bytes(file.read(8), "little", signed=True)
        kind, _, values, _ = stored.get(key, ("uint8", "", -1, 0))
        wanted = values * SIZES[kind]
        if count != values or at + 8 + wanted > size:
            raise Damaged(f"{count} values at {key[:40]!r}, wanted {values}; it is truncated")
        places[key] = ("", at + 8, wanted)
        at += 8 + wanted
    if missing := {tensor.place for tensor in described.tensors.values()} - places.keys():
        raise Damaged(f"{len(missing)} tensors have no values")
    return Checkpoint(described, places)


def _exported(archive: zipfile.ZipFile) -> Checkpoint:
    """As torch.export.save writes it since 2.8."""
    inside = {member.filename: member for member in archive.infolist()}
    told = next((n for n in inside if n.partition("/")[2] == "data/weights/model_weights_config.json"), "")
    if not told:
        raise Undescribed(
            "no list of weights; export it again with PyTorch 2.8 or later, or save model.state_dict()"
        )
    root = told.removesuffix("model_weights_config.json")
    try:
        entries = json.loads(read(archive, inside[told], LIMIT))["config"]
        tensors = {str(name): _weight(entry, inside, root) for name, entry in entries.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"its list of weights is not as it should be ({error})") from error
    places = {t.place: (root + t.place, 0, inside[root + t.place].file_size) for t in tensors.values()}
    return Checkpoint(
        Described(tensors, (), ("it is an exported program, of which the weights alone were taken",)), places
    )


def _weight(entry: Any, inside: dict[str, zipfile.ZipInfo], root: str) -> Stored:
    if entry["use_pickle"]:
        raise Undescribed(
            "weights that are pickles, which are not opened; export it again, or save model.state_dict()"
        )
    meta, place = entry["tensor_meta"], entry["path_name"]
    dtype = _EXPORTED[meta["dtype"]]
    shape, strides = (tuple(number["as_int"] for number in meta[key]) for key in ("sizes", "strides"))
    values = inside[root + place].file_size // SIZES[dtype]
    return checked(dtype, shape, strides, 0, meta["storage_offset"]["as_int"], place, values)
