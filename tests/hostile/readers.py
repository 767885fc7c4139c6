"""Every reader of files, as a function of bytes: a result or a DetriggerError, never anything else."""

from __future__ import annotations

import datetime
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import samples
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from detrigger.errors import DetriggerError
from detrigger.files.archive import in_archive, in_pickle
from detrigger.files.inspect import inspect_file
from detrigger.load import load_images, load_trigger, read_tensors
from detrigger.report.baseline import Acceptance, encode_baseline, read_baseline
from detrigger.report.document import document, encode
from detrigger.report.document import read as read_report

NET = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
Reader = Callable[[bytes, Path], object]


def _model(data: bytes, folder: Path) -> object:
    (path := folder / "file").write_bytes(data)
    seen = inspect_file(path)
    return seen, read_tensors(path)


def _images(ending: str) -> Reader:
    def read(data: bytes, folder: Path) -> object:
        (path := folder / f"file{ending}").write_bytes(data)
        return load_images(path)

    return read


def _picture(data: bytes, folder: Path) -> object:
    for name in "ab":
        (inside := folder / "data" / name).mkdir(parents=True, exist_ok=True)
        (inside / "1.png").write_bytes(data)
    return load_images(folder / "data")


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _member(name: str, source: Callable[[], bytes], then: Reader = _model) -> Reader:
    """A sound archive with one member replaced: mutations of the whole would fail at the checksum."""

    def read(data: bytes, folder: Path) -> object:
        with zipfile.ZipFile(io.BytesIO(_once(source))) as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        (own,) = (n for n in members if n.endswith(name))
        return then(zipped({**members, own: data}), folder)

    return read


_MADE: dict[Callable[[], bytes], bytes] = {}


def _once(source: Callable[[], bytes]) -> bytes:
    if source not in _MADE:
        _MADE[source] = source()
    return _MADE[source]


def saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _state() -> bytes:
    return saved({"state_dict": NET.state_dict(), "epoch": 3})


def _whole() -> bytes:
    return saved(NET)


def _legacy() -> bytes:
    return saved({"model": NET.state_dict()}, legacy=True)


def script() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=FutureWarning)
        torch.jit.save(torch.jit.script(NET), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    """What torch.export writes of a small network, without the seconds that it takes."""
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": 2}, {"as_int": 2}],
        "strides": [{"as_int": 2}, {"as_int": 1}],
        "storage_offset": {"as_int": 0},
    }
    config = {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}}}
    return zipped(
        {
            "m/archive_format": b"pt2",
            "m/models/model.json": b"{}",
            "m/data/weights/model_weights_config.json": json.dumps(config).encode(),
            "m/data/weights/weight_0": bytes(16),
        }
    )


def _safetensors() -> bytes:
    return save({"a": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.int64)})


def _trigger() -> bytes:
    return save({"masks": torch.ones(1, 1, 2, 2), "patterns": torch.ones(1, 3, 2, 2)}, {"family": "patch"})


ACCEPTED = Acceptance(fingerprint="0" * 32, reason="known", expires=datetime.date(2030, 1, 1))


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((4, 3, 3), dtype=np.uint8), y=np.arange(4) % 2)
    return buffer.getvalue()


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def _in_zip(source: Callable[[], bytes], name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(source())) as archive:
        return next(archive.read(n) for n in archive.namelist() if n.endswith(name))


def _write_then(read: Callable[[Path], object], name: str) -> Reader:
    def reader(data: bytes, folder: Path) -> object:
        (path := folder / name).write_bytes(data)
        return read(path)

    return reader


READERS: dict[str, tuple[Reader, Callable[[], Iterator[bytes]]]] = {
    "pickle": (lambda data, _: in_pickle(data), lambda: iter([_in_zip(_whole, "data.pkl")])),
    "archive": (lambda data, _: in_archive(io.BytesIO(data)), lambda: iter([_state(), script()])),
    "model": (_model, lambda: iter([_state(), _legacy(), _safetensors(), exported(), script()])),
    "checkpoint": (_member("data.pkl", _state), lambda: iter([_in_zip(_state, "data.pkl")])),
    "module": (_member("data.pkl", _whole), lambda: iter([_in_zip(_whole, "data.pkl")])),
    "torchscript": (_member("/data.pkl", script), lambda: iter([_in_zip(script, "/data.pkl")])),
    "pt2": (
        _member("weights_config.json", exported),
        lambda: iter([_in_zip(exported, "weights_config.json")]),
    ),
    "array": (_member("x.npy", _npz, _images(".npz")), lambda: iter([_in_zip(_npz, "x.npy")])),
    "npz": (_images(".npz"), lambda: iter([_npz()])),
    "list": (
        _images(".csv"),
        lambda: iter([b"path,label\na.png,1\nb.png,0\n", b'{"path": "a", "label": 1}\n']),
    ),
    "picture": (_picture, lambda: iter([_png()])),
    "trigger": (
        _write_then(load_trigger, "trigger.safetensors"),
        lambda: iter([_trigger()]),
    ),
    "report": (_write_then(read_report, "report.json"), lambda: iter([encode(document(samples.scan()))])),
    "baseline": (_write_then(read_baseline, "baseline.json"), lambda: iter([encode_baseline([ACCEPTED])])),
}
"""By name: the reader, and sound files to begin from."""


def ends_well(name: str, data: bytes, folder: Path) -> bool:
    """Whether a reader took the bytes; anything but a result or an error of ours is raised."""
    reader, _ = READERS[name]
    try:
        reader(data, folder)
    except DetriggerError as error:
        if "\n" in str(error):
            raise AssertionError(f"a message of more than one line: {error}") from error
        return False
    return True
