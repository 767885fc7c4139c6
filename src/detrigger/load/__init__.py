"""Files in, classifiers, images and triggers out. Nothing that a file holds is ever run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from detrigger import huggingface, onnx
from detrigger.errors import ModelError, UsageError
from detrigger.files import folder as folders
from detrigger.files.inspect import sha256
from detrigger.files.sniff import sniff
from detrigger.images import Images
from detrigger.load import architecture as architectures
from detrigger.load import fitting, safetensors_file, trial
from detrigger.load import metadata as meta
from detrigger.load.architecture import parse_arguments
from detrigger.load.classes import as_named, as_told
from detrigger.load.data import load_images
from detrigger.load.metadata import Metadata
from detrigger.load.trigger_file import load_trigger
from detrigger.load.weights import Weights, read_tensors
from detrigger.model import Classifier, Origin, Preprocessing

__all__ = [
    "Metadata",
    "Weights",
    "as_named",
    "as_told",
    "deviation",
    "load_classifier",
    "load_images",
    "load_trigger",
    "metadata",
    "parse_arguments",
    "read_tensors",
    "with_best_preprocessing",
]


@dataclass(frozen=True)
class _Read:
    """A network with its weights, from one of the formats."""

    net: nn.Module
    origin: Origin
    preprocessing: Preprocessing
    """What it wants unless the caller knows better."""


def load_classifier(
    path: Path | str,
    architecture: str | None,
    arguments: Mapping[str, object] = MappingProxyType({}),
    *,
    shape: tuple[int, int, int],
    names: tuple[str, ...],
    preprocessing: Preprocessing | None = None,
) -> Classifier:
    """A classifier of images of a shape (c, h, w) from an ONNX file, or a weights file and its architecture.

    `names` are those of the data; where they are the classes' own numbers, the model may have more classes.
    Raises ModelError for a file that is unsafe, unreadable or does not fit, DataError if the classes of data
    and model differ, and UsageError for an architecture that is missing or unknown.
    """
    path = Path(path)
    kind = sniff(path).name
    if kind == "onnx":
        read = _graph(path, architecture, shape)
    elif kind == "huggingface":
        read = _folder(path, architecture)
    else:
        read = _weights(path, architecture, arguments)
    preprocessing = preprocessing or read.preprocessing
    try:
        out = fitting.outputs(read.net, shape, preprocessing)
    except ModelError as error:
        told = f" as {read.origin.architecture}" if read.origin.architecture else ""
        notes = f" ({'; '.join(read.origin.notes)})" if read.origin.notes else ""
        raise ModelError(f"{path}{told}: {error}{notes}") from error
    return Classifier(
        read.net,
        fitting.class_names(names, out.shape[1]),
        shape,
        preprocessing,
        probabilities=fitting.are_probabilities(out),
        origin=read.origin,
    )


def deviation(model: Classifier, path: Path) -> float:
    """The largest difference of logits between a model and the file that it was saved to, read again.

    On eight images, of which two are grey. Raises ModelError if the file cannot be read or does not fit.
    """
    # as files hold weights: in another layout the same weights give logits rounded in another way
    net = copy.deepcopy(model.net).cpu().to(memory_format=torch.contiguous_format)
    if model.origin.format == "onnx":
        again = _graph(path, None, model.image_shape).net
    elif model.origin.format in ("timm", "transformers"):
        again = _folder(path, None).net
    else:
        again = fitting.filled(net, read_tensors(path).tensors)
    before, after = (fitting.outputs(n, model.image_shape, model.preprocessing) for n in (net, again))
    return float((before - after).abs().max())


def metadata(path: Path | str) -> Metadata:
    """What a model's own files say about its images and classes; little unless it is a folder.

    Raises ModelError if they cannot be read.
    """
    path = Path(path)
    kind = sniff(path).name
    if kind == "huggingface":
        return meta.of_folder(folders.read(path))
    return Metadata(size=onnx.wanted_size(path)) if kind == "onnx" else Metadata()


def with_best_preprocessing(model: Classifier, images: Images, architecture: str | None) -> Classifier:
    """For a model whose files do not tell: its preprocessing, or the usual one if clearly more accurate.

    For an architecture of timm or torchvision that is the one its published weights want.
    """
    if model.preprocessing != Preprocessing():
        return model
    own = architectures.preprocessing(architecture or "")
    return trial.best(model, images, {f"as {architecture} is": own} if own else trial.COMMON)


def _weights(path: Path, architecture: str | None, arguments: Mapping[str, object]) -> _Read:
    digest = sha256(path) if path.is_file() else ""
    weights = read_tensors(path)
    if digest and sha256(path) != digest:
        raise ModelError(f"{path} changed while it was read; try again when nothing writes to it")
    if not architecture:
        raise UsageError(
            f"{path} holds weights alone; name the architecture with --arch, as in --arch timm:resnet18, "
            "--arch torchvision:vgg16 or --arch my_network.py:make"
        )
    told = " ".join([architecture, *(f"{key}={json.dumps(value)}" for key, value in arguments.items())])
    net = architectures.build(architecture, arguments, weights.tensors)
    try:
        net = fitting.filled(net, weights.tensors)
    except ModelError as error:
        notes = f" ({'; '.join(weights.notes)})" if weights.notes else ""
        raise ModelError(f"{path} as {told}: {error}{notes}") from error
    origin = Origin(str(path), weights.format, digest, told, weights.within, weights.prefix, weights.notes)
    return _Read(net, origin, Preprocessing())


def _graph(path: Path, architecture: str | None, shape: tuple[int, int, int]) -> _Read:
    if architecture:
        raise UsageError(f"{path} is an ONNX model and holds its architecture; leave --arch out")
    try:
        found = onnx.load(path, shape)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    origin = Origin(str(path), "onnx", found.sha256, notes=found.notes)
    return _Read(found.net, origin, Preprocessing(std=(1 / 255,)) if found.integers else Preprocessing())


def _folder(path: Path, architecture: str | None) -> _Read:
    if architecture:
        raise UsageError(
            f"{path} names its architecture; leave --arch out, or give its {folders.WEIGHTS} with it"
        )
    digest, found = folders.digest(path), folders.read(path)
    told = meta.of_folder(found)
    tensors = safetensors_file.read(found.weights)
    try:
        if found.kind == "timm":
            name = f"timm:{found.config['architecture']}"
            net = fitting.filled(architectures.build(name, _arguments(found.config), tensors), tensors)
        else:
            name = f"transformers:{found.config['model_type']}"
            net = huggingface.network(found.config, tensors)
    except (ModelError, UsageError) as error:
        raise ModelError(f"{path}: {error}") from error
    if folders.digest(path) != digest:
        raise ModelError(f"{path} changed while it was read; try again when nothing writes to it")
    origin = Origin(str(path), found.kind, digest, name, notes=told.notes)
    return _Read(net, origin, told.preprocessing or Preprocessing())


def _arguments(config: Mapping[str, object]) -> dict[str, object]:
    """Of a timm architecture, as its folder says."""
    told = config.get("model_args")
    arguments = dict(told) if isinstance(told, Mapping) else {}
    classes = config.get("num_classes")
    return arguments | ({"num_classes": classes} if isinstance(classes, int) else {})
