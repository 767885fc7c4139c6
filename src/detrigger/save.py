"""Classifiers and triggers to files, whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from detrigger import huggingface, onnx
from detrigger.errors import ModelError, OutputError, UsageError
from detrigger.files import folder as folders
from detrigger.model import Classifier, Origin
from detrigger.trigger import FAMILIES, Trigger

_SAFETENSORS = ("safetensors", "memory")
"""Formats of models that are saved as safetensors."""


def save_classifier(model: Classifier, path: Path | str) -> str:
    """Write the weights in the format they came in, and return the SHA-256 of the file as hexadecimal digits.

    That is safetensors, the same ONNX graph, a folder with the same settings (its digest is that of the files
    that belong to the model, by name), or else a state dict with nothing but tensors in it, for a
    checkpoint under the same keys; what was a program or a whole pickled module becomes one too. Names are
    those of the file, types those of the network; shared weights are written under each of their names.
    Raises OutputError if the path cannot be written, or is the file the model was loaded from, and ModelError
    if onnxruntime does not make the same of an ONNX file.
    """
    path = Path(path)
    if model.origin.path:
        check_target(path, Path(model.origin.path))
    if model.origin.format in ("timm", "transformers"):
        return _save_folder(model, path)
    if model.origin.format != "onnx":
        return save_tensors(model.net.state_dict(), path, model.origin)
    data = _onnx(model)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def _save_folder(model: Classifier, path: Path) -> str:
    """The original folder's settings, and new weights."""
    original = Path(model.origin.path)
    if folders.digest(original) != model.origin.sha256:
        raise ModelError(f"{original} has changed since it was loaded; start again with it as it is now")
    transformers = model.origin.format == "transformers"
    state = huggingface.stored(model.net) if transformers else model.net.state_dict()
    data = to_safetensors({name: _alone(value) for name, value in state.items()}, metadata={"format": "pt"})
    if transformers:
        _check(model, huggingface.network(folders.read(original).config, from_safetensors(data)))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            part.mkdir()
            for member in folders.members(original):
                write_atomically(
                    part / member.name, data if member.name == folders.WEIGHTS else member.read_bytes()
                )
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot write the folder {path} ({error.strerror}); give one that does not exist yet"
        ) from error
    return folders.digest(path)


def _check(model: Classifier, net: nn.Module) -> None:
    """Raises ModelError if a network, made from what is to be written, is not the model's."""
    x = torch.rand(4, *model.image_shape, generator=torch.Generator().manual_seed(0), device="cpu")
    again = dataclasses.replace(model, net=net.to(model.device))
    with torch.no_grad():
        ours, theirs = (m(x.to(model.device)) for m in (model, again))
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        raise ModelError("what would be written is not the repaired model; please report the model's type")


def save_tensors(tensors: Mapping[str, Tensor], path: Path | str, origin: Origin) -> str:
    """As `save_classifier`, for the weights of a model of that origin, which is not ONNX."""
    state = {origin.prefix + name: _alone(value) for name, value in tensors.items()}
    if origin.format in _SAFETENSORS:
        data = to_safetensors(state, metadata={"format": "pt"})
    else:
        buffer, nested = io.BytesIO(), dict[str, Any](state)
        for key in reversed(origin.within):
            nested = {key: nested}
        torch.save(nested, buffer)
        data = buffer.getvalue()
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def _onnx(model: Classifier) -> bytes:
    assert isinstance(model.net, onnx.Network)
    return onnx.written(Path(model.origin.path), model.origin.sha256, model.net, model.image_shape)


def check_target(path: Path, original: Path) -> None:
    """Raises OutputError if a path to write to is the original model file, under whatever name."""
    if path.exists() and original.exists() and path.samefile(original):
        raise OutputError(f"{path} is the original model, which is not overwritten; give another path")


def save_trigger(trigger: Trigger, path: Path | str, *, target: int | None, family: str) -> None:
    """Write a stack of triggers as safetensors, with its family and target class as metadata.

    Raises UsageError for an unknown family, OutputError if the path cannot be written.
    """
    if family not in FAMILIES:
        raise UsageError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    metadata = {"family": family} | ({} if target is None else {"target": str(target)})
    tensors = {name: _alone(value) for name, value in trigger.tensors().items()}
    write_atomically(path, safetensors_bytes(tensors, metadata))


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, the same for the same content: the library puts metadata in a random order."""
    data = to_safetensors(dict(tensors), metadata=dict(metadata))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _alone(value: Tensor) -> Tensor:
    """In memory of its own, as safetensors wants it."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def made(folder: Path) -> Path:
    """The folder, made if it was not there. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"{folder} cannot be written ({reason}); choose another --out") from error
    return folder


def write_atomically(path: Path | str, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was before; its folder must exist.

    Raises OutputError if it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room there" if full else "check that its folder exists and may be written"
        raise OutputError(f"cannot write {path} ({error.strerror}); {advice}") from error
