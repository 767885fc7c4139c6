"""Files in, classifiers, images and triggers out. Nothing that a file holds is ever run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import nn

from detrigger import onnx
from detrigger.errors import ModelError, UsageError
from detrigger.files.inspect import sha256
from detrigger.files.sniff import sniff
from detrigger.load import architecture as architectures
from detrigger.load import fitting
from detrigger.load.architecture import parse_arguments
from detrigger.load.data import load_images
from detrigger.load.trigger_file import load_trigger
from detrigger.load.weights import Weights, read_tensors
from detrigger.model import Classifier, Origin, Preprocessing

__all__ = [
    "Weights",
    "deviation",
    "load_classifier",
    "load_images",
    "load_trigger",
    "parse_arguments",
    "read_tensors",
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
    if sniff(path).name == "onnx":
        read = _graph(path, architecture, shape)
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
    net = copy.deepcopy(model.net).cpu()
    if model.origin.format == "onnx":
        again = _graph(path, None, model.image_shape).net
    else:
        again = fitting.filled(net, read_tensors(path).tensors)
    before, after = (fitting.outputs(n, model.image_shape, model.preprocessing) for n in (net, again))
    return float((before - after).abs().max())


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
