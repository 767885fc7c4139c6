"""What a file is, told from its bytes: endings of names can lie."""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

from detrigger.errors import ModelError

_WEIGHTS_ALONE = (
    "it is not opened, for that could run code from it; save the weights alone, as safetensors or with "
    "torch.save(model.state_dict(), FILE), and name the architecture with --arch"
)
_EXPORT = "save the state dict of its PyTorch model as safetensors and name the architecture with --arch"
_AGAIN = "copy or download it again"
_DATA = "this is data, not a model; give it with --data"
_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_HEAD = 4096
_SMALL = 1 << 20


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
        Format("pickle", "a Python pickle", _WEIGHTS_ALONE),
        Format("torchscript", "a TorchScript program", _WEIGHTS_ALONE),
        Format("pt2", "a torch.export program (.pt2)", _WEIGHTS_ALONE),
        Format("onnx", "an ONNX model", f"ONNX is not supported yet; {_EXPORT}"),
        Format("hdf5", "an HDF5 file (Keras 2 models are such)", f"Keras is not supported; {_EXPORT}"),
        Format("keras", "a Keras 3 model", f"Keras is not supported yet; export it to ONNX, or {_EXPORT}"),
        Format("npz", "a NumPy archive (.npz)", _DATA),
        Format("zip", "a zip archive, but not of a model", "unpack it and give the weights file"),
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
    (0, b"\x89PNG\r\n\x1a\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF8", "image"),
    (0, b"BM", "image"),
    (0, b"II*\x00", "image"),
    (0, b"MM\x00*", "image"),
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
        if path.is_dir():
            return FORMATS["huggingface" if (path / "config.json").exists() else "directory"]
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}; check the path") from error
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    if not head:
        return FORMATS["empty"]
    return FORMATS[_archive(path) if head.startswith((_ZIP, _EMPTY_ZIP)) else _single(path, head)]


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
    if len(head) > 2 and head[0] == 0x80 and head[1] <= 5:
        return True
    if len(head) < 3 or path.stat().st_size > _SMALL:
        return False
    data = path.read_bytes()  # protocols 0 and 1 have no magic bytes: read it to the end
    try:
        ends = [at for _, _, at in pickletools.genops(data)]
    except ValueError:
        return False
    return len(data) - 1 in ends[-1:]


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
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
