"""Files in, classifiers, images and triggers out. Nothing that a file holds is ever run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from detrigger.errors import ModelError, UsageError
from detrigger.files.inspect import sha256
from detrigger.load import architecture as architectures
from detrigger.load import fitting
from detrigger.load.architecture import parse_arguments
from detrigger.load.data import load_images
from detrigger.load.trigger_file import load_trigger
from detrigger.load.weights import Weights, read_tensors
from detrigger.model import Classifier, Origin, Preprocessing

__all__ = [
    "Weights",
    "load_classifier",
    "load_images",
    "load_trigger",
    "parse_arguments",
    "read_tensors",
]


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
        origin=Origin(str(path), weights.format, digest, told, weights.within, weights.prefix),
    )
