"""Model files made to do harm, to cost, or to deceive. Each builder writes one below a folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hostile import Payload, archive, checkpoint, with_payload_inside
from hostile.pickled import BOMBS, LIVE, MKDIR, STOP, called, text
from hostile.readers import exported, saved, zipped

STATE = {"w": torch.arange(4.0)}


@dataclass(frozen=True)
class Case:
    """What is to be said of a file."""

    make: Callable[[Path, Path], Path]
    """From a folder to write in, and the marker that a payload would make."""
    code: int
    """Of `inspect`: 1 dangerous, 0 not, 2 not to be read at all."""
    said: str
    """Part of what `inspect` says."""
    loads: bool = False
    """Weights can be taken from it all the same."""


def _written(data: Callable[[str], bytes], ending: str = "pth") -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        (path := folder / f"model.{ending}").write_bytes(data(str(marker)))
        return path

    return make


class Writes(nn.Module):
    """Makes a file when it is used, with nothing but what TorchScript can do."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.w = nn.Parameter(torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_file(self.path, shared=True, size=1) + x + self.w.sum()


def _script(folder: Path, marker: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=FutureWarning)
        torch.jit.save(torch.jit.script(Writes(str(marker))), folder / "model.pt")
    return folder / "model.pt"


def _edited(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    return zipped(members)


def _use_pickle(marker: str) -> bytes:
    def change(members: dict[str, bytes]) -> None:
        told = "m/data/weights/model_weights_config.json"
        members[told] = members[told].replace(b'"use_pickle": false', b'"use_pickle": true')
        members["m/data/weights/weight_0"] = called(MKDIR, text(marker)) + STOP

    return _edited(exported(), change)


def _compiled(_: str) -> bytes:
    return _edited(exported(), lambda members: members.update({"m/data/aotinductor/model/a.so": b"\x7fELF"}))


def _tensors(header: object, values: bytes) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + values


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _views(shape: tuple[int, ...], strides: tuple[int, ...], numel: int = 4) -> bytes:
    """A checkpoint of four values with one view of them, as the pickle claims it."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"I%d\ntQ" % numel
    )
    numbers = b"".join(b"(" + b"".join(b"I%d\n" % n for n in each) + b"t" for each in (shape, strides))
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + numbers
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
    data = b"\x80\x02}" + text("w") + tensor + b"s."
    return zipped({"m/data.pkl": data, "m/byteorder": b"little", "m/data/0": bytes(16), "m/version": b"3\n"})


def _packed_zeros(_: str) -> bytes:
    """Eight gigabytes of zeros that take eight megabytes, as one tensor would."""
    honest = _views((1 << 28,), (1,), 1 << 28)
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(honest)) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        packed.writestr("m/data.pkl", source.read("m/data.pkl"))
        with packed.open("m/data/0", "w", force_zip64=True) as member:
            for _part in range(64):
                member.write(bytes(1 << 20))
    return buffer.getvalue().replace(struct.pack("<I", 64 << 20), struct.pack("<I", 1 << 30))


def _in_archives(marker: str) -> bytes:
    data = called(MKDIR, text(marker)) + STOP
    for _ in range(5):
        data = zipped({"m/data.pkl": data})
    return data


def _crowded(_: str) -> bytes:
    """A list of members of 20 MB that all stand at the same place."""
    one = zipped({"a": b""})
    start = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    listed = one[start:end] * 500_000
    closing = bytearray(one[end:])
    closing[12:16] = len(listed).to_bytes(4, "little")
    return one[:start] + listed + bytes(closing)


def _two_faces(marker: str) -> bytes:
    """Python's reader sees a clean archive behind a payload, others may see what is in front."""
    return zipped({"m/data.pkl": called(MKDIR, text(marker)) + STOP}) + zipped({"m/data.pkl": b"\x80\x02}."})


def _also_pickle(marker: str) -> bytes:
    """By its bytes safetensors; for pickle.load a payload behind a number."""
    return b"G1234567{" + called(MKDIR, text(marker)) + STOP


def _objects(folder: Path, marker: Path) -> Path:
    np.save(folder / "model.npy", np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return folder / "model.npy"


def _old(marker: str) -> bytes:
    """The format before 1.6, with the payload in the pickle of the list of values, which comes last."""
    data = saved(STATE, legacy=True)
    at = data.rindex(b"\x80\x02]")
    return data[:at] + b"\x80\x02" + called(MKDIR, text(marker)) + STOP + data[at:]


def _checkpoint(folder: Path, marker: Path) -> Path:
    return checkpoint(folder / "model.pth", marker)


def _pickled_inputs(folder: Path, marker: Path) -> Path:
    return with_payload_inside(folder / "model.pt2", marker)


def _pipe(folder: Path, _: Path) -> Path:
    os.mkfifo(folder / "model.pth")
    return folder / "model.pth"


def _loop(folder: Path, _: Path) -> Path:
    (folder / "model.pth").symlink_to(folder / "other.pth")
    (folder / "other.pth").symlink_to(folder / "model.pth")
    return folder / "model.pth"


def _link(folder: Path, marker: Path) -> Path:
    (folder / "harmless.safetensors").symlink_to(checkpoint(folder / "model.pth", marker))
    return folder / "harmless.safetensors"


def _whole_foreign(folder: Path, _: Path) -> Path:
    """A module of a class that is not known here."""
    data = saved({"model": nn.Linear(2, 2)})

    def change(members: dict[str, bytes]) -> None:
        own = next(name for name in members if name.endswith("data.pkl"))
        members[own] = members[own].replace(b"torch.nn.modules.linear\nLinear", b"my_networks\nNet")

    (folder / "model.pth").write_bytes(_edited(data, change))
    return folder / "model.pth"


def _slip(_: str) -> bytes:
    return _edited(saved(STATE), lambda members: members.update({"archive/../../../slipped": b"x"}))


CASES: dict[str, Case] = {
    "a checkpoint with a payload": Case(_checkpoint, 1, "would call posix.system('touch "),
    "the format before 1.6": Case(_written(_old), 1, "would call os.mkdir("),
    "a bare pickle": Case(_written(LIVE["STACK_GLOBAL"], "pkl"), 1, "would call os.mkdir("),
    "a module of a class that is not known": Case(
        _whole_foreign, 1, "medium: would make my_networks.Net", loads=True
    ),
    "pt2 with pickled inputs": Case(_pickled_inputs, 1, "would call posix.system("),
    "pt2 with pickled weights": Case(_written(_use_pickle, "pt2"), 1, "asks for 1 weights to be unpickled"),
    "pt2 with compiled code": Case(_written(_compiled, "pt2"), 1, "is compiled code"),
    "TorchScript that writes a file": Case(_script, 1, "run the code that is in it", loads=True),
    "an array of objects": Case(_objects, 1, "is an array of Python objects"),
    "an archive in archives": Case(_written(_in_archives), 1, "an archive too deep to look into"),
    "an archive of two faces": Case(_written(_two_faces), 1, "has bytes in front of it"),
    "a member outside of the folder": Case(_written(_slip), 1, "would be unpacked outside its folder"),
    "safetensors for one, a pickle for another": Case(
        _written(_also_pickle, "safetensors"), 1, "would call os.mkdir("
    ),
    "a harmless name for a payload": Case(_link, 1, "would call posix.system("),
    "a pipe": Case(_pipe, 2, "is a device, pipe or socket"),
    "a link to itself": Case(_loop, 2, "cannot read"),
    "overlapping tensors": Case(
        _written(lambda _: _tensors({"a": A, "b": A}, bytes(8)), "safetensors"),
        0,
        "tensor b overlaps the one before",
    ),
    "a header that is longer than the file": Case(
        _written(lambda _: (1 << 60).to_bytes(8, "little") + b"{}", "safetensors"), 0, "truncated or made up"
    ),
    "a header of 30 MB": Case(
        _written(lambda _: _tensors(b"{" + b" " * 30_000_000 + b"}", b""), "safetensors"),
        0,
        "at most 25000000 are read",
    ),
    "a header without a bottom": Case(
        _written(lambda _: _tensors(b'{"a":' + b"[" * 100_000, b""), "safetensors"), 0, "not valid JSON"
    ),
    "a header with a key twice": Case(
        _written(
            lambda _: _tensors(f'{{"a":{json.dumps(A)},"a":{json.dumps(A)}}}'.encode(), bytes(8)),
            "safetensors",
        ),
        0,
        "a key comes twice",
    ),
    "a tensor beyond its values": Case(
        _written(lambda _: _views((3, 2), (2, 1))), 0, "needs 6 values where 4 are stored"
    ),
    "a tensor of negative strides": Case(
        _written(lambda _: _views((2,), (-1,))), 0, "not whole numbers from 0"
    ),
    "a tensor of the same value, often": Case(
        _written(lambda _: _views((1 << 40,), (0,))), 0, "claim to be tensors of 4398046511104"
    ),
    "more values than are stored": Case(
        _written(lambda _: _views((4,), (1,), 1 << 40)), 0, "has 16 bytes, wanted"
    ),
    "zeros packed tightly": Case(_written(_packed_zeros), 0, "claim to be tensors of 1073741824"),
    "a pickle packed tightly": Case(
        lambda folder, _: archive(folder / "model.pth", {"m/data.pkl": bytes(80 << 20)}),
        1,
        "too large to be looked through",
    ),
    "half a million members": Case(_written(_crowded), 1, "is damaged and cannot be looked through"),
    "values in the other order of bytes": Case(
        _written(
            lambda _: _edited(saved(STATE), lambda members: members.update({"archive/byteorder": b"big"}))
        ),
        0,
        "big-endian",
    ),
}
"""By what is wrong with them."""

COSTLY = {
    name: Case(_written(lambda _, make=make: zipped({"m/data.pkl": make(), "m/version": b"3\n"})), -1, "")  # type: ignore[misc]
    for name, make in BOMBS.items()
}
"""Whatever is said of them, it is said soon."""


def works(path: Path) -> None:
    """Opens a file with the ordinary tools, as its victim would."""
    try:
        torch.load(path, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError):
        return
