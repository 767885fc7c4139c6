"""What a file is, told from its bytes: endings of names can lie."""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass
from pathlib import Path

from detrigger.errors import ModelError
from detrigger.files.machine import Machine, Unreadable
from detrigger.files.zips import Damaged, opened

_WEIGHTS_ALONE = (
    "it is not opened, for that could run code from it; save the weights alone, as safetensors or with "
    "torch.save(model.state_dict(), FILE), and name the architecture with --arch"
)
_KERAS = (
    "export it to ONNX where you trust it: keras.saving.load_model(FILE).export('model.onnx', format='onnx')"
)
_TENSORFLOW = "export it to ONNX where you trust it: python -m tf2onnx.convert"
_AGAIN = "copy or download it again"
_DATA = "this is data, not a model; give it with --data"
_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_HEAD = 4096
_READ = 64 << 20
"""Bytes of a file without a mark of its own that are looked through for pickles."""


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    description: str
    """In words, to follow "is"."""
    advice: str = ""
    """What to do when it is given as a model; empty if weights can be read from it."""


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("safetensors", "a safetensors file"),
        Format("state-dict", "a PyTorch checkpoint (zip with a pickle)"),
        Format("legacy-state-dict", "a PyTorch checkpoint in the format before 1.6 (pickles)"),
        Format("torchscript", "a TorchScript program"),
        Format("pt2", "a torch.export program (.pt2)"),
        Format("pickle", "a Python pickle", _WEIGHTS_ALONE),
        Format("onnx", "an ONNX model", "give it to scan or repair as it is, without --arch"),
        Format("hdf5", "an HDF5 file (Keras 2 models are such)", _KERAS),
        Format("keras", "a Keras 3 model", _KERAS),
        Format("tflite", "a TensorFlow Lite model", f"{_TENSORFLOW} --tflite FILE --output model.onnx"),
        Format(
            "saved-model",
            "a TensorFlow SavedModel folder",
            f"{_TENSORFLOW} --saved-model FOLDER --output model.onnx",
        ),
        Format("gguf", "a GGUF file of a language model", "only image classifiers can be scanned"),
        Format("npz", "a NumPy archive (.npz)", _DATA),
        Format("npy", "a NumPy array (.npy)", _DATA),
        Format("zip", "a zip archive, but not of a model", "unpack it and give the weights file"),
        Format("packed", "a compressed file", "unpack it and give the weights file"),
        Format("damaged-zip", "a damaged or truncated zip archive (PyTorch checkpoints are such)", _AGAIN),
        Format(
            "huggingface",
            "a Hugging Face model folder",
            "not supported yet; give the .safetensors file in it and name the architecture with --arch",
        ),
        Format("directory", "a folder", "give the weights file itself"),
        Format("image", "an image", _DATA),
        Format("parquet", "a Parquet file", _DATA),
        Format("tar", "a tar archive", _DATA),
        Format("csv", "a CSV list", _DATA),
        Format("jsonl", "a list of JSON lines", _DATA),
        Format("empty", "an empty file", _AGAIN),
        Format(
            "unknown", "of no kind that is known here", "give a .safetensors file or a PyTorch state dict"
        ),
    )
}
"""All kinds that can be told apart, by name."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "legacy-state-dict"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"GGUF", "gguf"),
    (0, b"\x1f\x8b", "packed"),
    (0, b"BZh", "packed"),
    (0, b"\xfd7zXZ\x00", "packed"),
    (0, b"\x28\xb5\x2f\xfd", "packed"),
    (0, b"\x89PNG\r\n\x1a\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF8", "image"),
    (0, b"BM", "image"),
    (0, b"II*\x00", "image"),
    (0, b"MM\x00*", "image"),
    (4, b"TFL3", "tflite"),
    (8, b"WEBP", "image"),
    (0, b"PAR1", "parquet"),
    (257, b"ustar", "tar"),
    (8, b"{", "safetensors"),
)
"""Offset, bytes there, name of the format; the first that fits counts."""


def sniff(path: Path | str) -> Format:
    """The kind of a file or folder. Nothing in it is run or unpickled.

    Raises ModelError if there is no such file, or it cannot be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return FORMATS[_folder(path)]
        if not stat.S_ISREG(mode):  # to open a pipe is to wait for whoever writes to it
            raise ModelError(f"{path} is a device, pipe or socket; give a file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}; check the path") from error
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {path} ({reason}); check its name and permissions") from error
    if not head:
        return FORMATS["empty"]
    return FORMATS[_archive(path) if head.startswith((_ZIP, _EMPTY_ZIP)) else _single(path, head)]


def _folder(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return "saved-model"
    return "huggingface" if (path / "config.json").exists() else "directory"


def _single(path: Path, head: bytes) -> str:
    if head.startswith(b"{") and b"\0" not in head:
        return "jsonl"
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if _is_onnx(head):
        return "onnx"
    if _is_pickle(path, head):
        return "pickle"
    heading, newline, _ = head.partition(b"\n")
    return "csv" if newline and b"\0" not in head and {*heading} & {*b",;\t"} else "unknown"


def _is_onnx(head: bytes) -> bool:
    """A ModelProto: field 1 (IR version, a small number), then one of its fields made of bytes."""
    return len(head) > 3 and head[0] == 0x08 and head[1] < 64 and head[2] in range(0x12, 0x48, 8)


def _is_pickle(path: Path, head: bytes) -> bool:
    """Protocols 0 and 1 have no mark: one that can be read to its last byte, or that would call something."""
    if len(head) > 2 and head[0] == 0x80 and head[1] <= 5:
        return True
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(_READ))
    machine = Machine()
    try:
        machine.read(stream)
    except Unreadable:
        return any(use.how != "import" for use in machine.uses)
    return stream.read(1) == b"" or bool(machine.uses)


def _archive(path: Path) -> str:
    try:
        with path.open("rb") as file, opened(file) as archive:
            names = archive.namelist()
    except (Damaged, OSError):
        return "damaged-zip"
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    if inner & {"archive_format", "models/model.json"} or "serialized_exported_program.json" in names:
        return "pt2"
    if "data.pkl" in inner:
        return "state-dict"
    if "model.weights.h5" in names:
        return "keras"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"
