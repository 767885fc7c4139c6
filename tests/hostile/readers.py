"""Every reader of files, as a function of bytes: a result or a DetriggerError, never anything else."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import graphs
import numpy as np
import pyarrow
import samples
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save
from torch import nn

from detrigger.cli.config import found
from detrigger.delta import applied, difference, load_patch, save_patch
from detrigger.errors import DetriggerError
from detrigger.files.archive import in_archive, in_pickle
from detrigger.files.inspect import inspect_file
from detrigger.load import load_classifier, load_images, load_trigger, metadata, read_tensors
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


def _graph() -> bytes:
    """A convolution and a last layer, of a model that takes any number of images."""
    with tempfile.TemporaryDirectory() as folder:
        body = "f = Conv(x, w) p = GlobalAveragePool(f) q = Flatten(p) y = Gemm<transB = 1>(q, v)"
        path = graphs.text(Path(folder) / "g.onnx", body, w=(2, 3, 3, 3), v=(5, 2))
        return path.read_bytes()


def _load_graph(path: Path) -> object:
    return inspect_file(path), load_classifier(path, None, shape=(3, 8, 8), names=tuple("01234"))


def _parquet() -> bytes:
    rows = {"image": [{"bytes": _png(), "path": None}] * 2, "label": [0, 1]}
    parquet.write_table(pyarrow.table(rows), buffer := io.BytesIO())
    return buffer.getvalue()


def _tar() -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as packed:
        for name, data in (
            ("1.png", _png()),
            ("1.cls", b"0"),
            ("2.png", _png()),
            ("2.json", b'{"label": 1}'),
        ):
            (member := tarfile.TarInfo(name)).size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


TIMM = {"architecture": "test_resnet", "num_classes": 2, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}
VIT = {"model_type": "vit", "image_size": 16, "id2label": {"0": "cat", "1": "dog"}}
PROCESSOR = {"do_normalize": True, "image_mean": [0.5], "image_std": [0.5], "size": {"shortest_edge": 20}}


def _settings(name: str) -> Reader:
    """A model folder with one file of settings replaced; its weights fit none of them."""

    def read(data: bytes, folder: Path) -> object:
        (folder / "config.json").write_text(json.dumps(VIT))
        (folder / "model.safetensors").write_bytes(_once(_safetensors))
        (folder / name).write_bytes(data)
        told = metadata(folder)
        return (
            told
            if name != "config.json"
            else load_classifier(folder, None, shape=(3, 8, 8), names=("a", "b"))
        )

    return read


WEIGHTS = {"a": torch.arange(6.0), "b": torch.arange(3)}


def _patch() -> bytes:
    after = {"a": torch.ones(6), "b": torch.tensor([0, 7, 2])}
    with tempfile.TemporaryDirectory() as folder:
        save_patch(difference(WEIGHTS, after), Path(folder) / "patch")
        return (Path(folder) / "patch").read_bytes()


def _options(data: bytes, folder: Path) -> object:
    """As the options of the current folder."""
    (folder / "detrigger.toml").write_bytes(data)
    with contextlib.chdir(folder):
        return found()


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
    "parquet": (_images(".parquet"), lambda: iter([_parquet()])),
    "tar": (_images(".tar"), lambda: iter([_tar()])),
    "onnx": (_write_then(_load_graph, "g.onnx"), lambda: iter([_graph()])),
    "settings": (
        _settings("config.json"),
        lambda: (json.dumps(told).encode() for told in (TIMM, VIT)),
    ),
    "preprocessing": (
        _settings("preprocessor_config.json"),
        lambda: iter([json.dumps(PROCESSOR).encode()]),
    ),
    "patch": (
        _write_then(lambda path: applied(load_patch(path), WEIGHTS), "patch.safetensors"),
        lambda: iter([_patch()]),
    ),
    "options": (_options, lambda: iter([b"[scan]\nbudget = 'quick'\nmean = [0.5]\n"])),
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
