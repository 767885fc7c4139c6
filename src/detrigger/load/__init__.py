"""Files in, classifiers, images and triggers out. Nothing that a file holds is ever run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from detrigger.errors import ModelError, UsageError
from detrigger.files import pickles, safetensors_header
from detrigger.files.pickles import Contents, Global
from detrigger.files.sniff import Format, sniff
from detrigger.load import architecture as architectures
from detrigger.load import fitting, safetensors_file, state_dict
from detrigger.load.architecture import parse_arguments
from detrigger.load.data import load_images
from detrigger.load.trigger_file import load_trigger
from detrigger.model import Classifier, Origin, Preprocessing

__all__ = [
    "Weights",
    "contents",
    "listed",
    "load_classifier",
    "load_images",
    "load_trigger",
    "parse_arguments",
    "read_tensors",
    "sha256",
]

_PREFIXES = ("module.", "_orig_mod.")
"""Put before every name by DataParallel and by torch.compile."""
_SHOWN = 4


@dataclass(frozen=True)
class Weights:
    """Tensors of a model file."""

    tensors: dict[str, Tensor]
    format: str
    """`safetensors` or `state-dict`."""
    notes: tuple[str, ...] = ()
    """What was unwrapped or renamed, one sentence each."""


def load_classifier(
    path: Path | str,
    architecture: str | None,
    arguments: Mapping[str, object] = MappingProxyType({}),
    *,
    shape: tuple[int, int, int],
    names: tuple[str, ...],
    preprocessing: Preprocessing | None = None,
) -> Classifier:
    """A classifier of images of a shape (c, h, w) from a weights file and the name of its architecture.

    `names` are those of the data; where they are the classes' own numbers, the model may have more classes.
    Raises ModelError for a file that is unsafe, unreadable or does not fit, DataError if the classes of data
    and model differ, and UsageError for an architecture that is missing or unknown.
    """
    path = Path(path)
    weights = read_tensors(path)
    if not architecture:
        raise UsageError(
            f"{path} holds weights alone; name the architecture with --arch, as in --arch timm:resnet18, "
            "--arch torchvision:vgg16 or --arch my_network.py:make"
        )
    told = " ".join([architecture, *(f"{key}={json.dumps(value)}" for key, value in arguments.items())])
    preprocessing = preprocessing or Preprocessing()
    net = architectures.build(architecture, arguments, weights.tensors)
    try:
        net = fitting.filled(net, weights.tensors)
        out = fitting.outputs(net, shape, preprocessing)
    except ModelError as error:
        notes = f" ({'; '.join(weights.notes)})" if weights.notes else ""
        raise ModelError(f"{path} as {told}: {error}{notes}") from error
    return Classifier(
        net,
        fitting.class_names(names, out.shape[1]),
        shape,
        preprocessing,
        probabilities=fitting.are_probabilities(out),
        origin=Origin(str(path), weights.format, sha256(path), told),
    )


def read_tensors(path: Path | str) -> Weights:
    """The tensors of a safetensors file or a PyTorch state dict, on the CPU.

    A pickle is first read as text; if it would import anything besides plain tensors it is not opened.
    Raises ModelError for that, and for files that are damaged or of another format.
    """
    path = Path(path)
    kind = sniff(path)
    notes: tuple[str, ...] = ()
    if kind.name == "safetensors":
        tensors, name = safetensors_file.read(path), "safetensors"
    elif kind.name in {"state-dict", "legacy-state-dict"}:
        _refuse_unsafe(path, contents(path, kind))
        (tensors, notes), name = state_dict.read(path), "state-dict"
    else:
        found = contents(path, kind)
        running = f" that would import {_some(found.would_run)}" if found.would_run else ""
        raise ModelError(f"{path} is {kind.description}{running}; {kind.advice}")
    if not tensors:
        raise ModelError(f"{path} holds no tensors; give the file with the weights")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
            notes += (f"{prefix!r} was taken off the names of its tensors",)
    return Weights(tensors, name, notes)


def contents(path: Path, kind: Format) -> Contents:
    """What is in a file that may hold pickles; nothing in others."""
    if kind.name in {"state-dict", "torchscript", "pt2", "keras", "npz", "zip", "damaged-zip"}:
        return pickles.in_archive(path)
    if kind.name == "legacy-state-dict":
        return pickles.in_file(
            path, at_most=5
        )  # magic number, version, system, weights, keys; then raw values
    return pickles.in_file(path) if kind.name == "pickle" else Contents()


def listed(path: Path, kind: Format) -> tuple[tuple[tuple[str, tuple[int, ...], str], ...], tuple[str, ...]]:
    """Name, shape and type of each tensor of a weights file without unsafe contents, and findings."""
    if kind.name == "safetensors":
        header = safetensors_header.header(path)
        return header.tensors, header.findings
    if kind.name not in {"state-dict", "legacy-state-dict"}:
        return (), ()
    try:
        tensors, notes = state_dict.read(path, device="meta")
    except ModelError as error:
        return (), (str(error),)
    described = ((name, tuple(value.shape), value.dtype) for name, value in tensors.items())
    return tuple((n, s, str(dtype).removeprefix("torch.")) for n, s, dtype in described), notes


def _refuse_unsafe(path: Path, found: Contents) -> None:
    if found.would_run:
        raise ModelError(
            f"{path} would import {_some(found.would_run)} when opened, so it is not opened; save the "
            "weights alone with torch.save(model.state_dict(), FILE) or as safetensors"
        )
    if found.unsafe:
        raise ModelError(f"{path} is not opened: {found.findings[0]}; save the weights again, as safetensors")


def _some(found: tuple[Global, ...]) -> str:
    names = list(dict.fromkeys(each.name for each in found))
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def sha256(path: Path) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
