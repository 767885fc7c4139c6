"""ONNX files: in as a network that can be trained, out into the same graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detrigger.errors import ModelError
from detrigger.onnx import graph as graphs
from detrigger.onnx import parity, reading
from detrigger.onnx.build import build
from detrigger.onnx.network import Network

__all__ = ["Loaded", "Network", "load", "wanted_size", "written"]

_TOLERANCE, _TOLERANCE_HALVES = 1e-3, 2e-2
"""Largest difference from onnxruntime, relative to the largest output; the second for weights of 16 bits."""


@dataclass(frozen=True)
class Loaded:
    """A network from a file, and what was seen on the way."""

    net: Network
    integers: bool
    """It takes pixels from 0 to 255."""
    sha256: str
    """Of the file, followed by those with its external data."""
    notes: tuple[str, ...]
    """One sentence each."""


def load(path: Path, shape: tuple[int, int, int]) -> Loaded:
    """The network of an ONNX file, for images of a shape (c, h, w); its outputs are those of onnxruntime.

    Raises ModelError for files that are damaged, unsafe or not supported, and where outputs differ.
    """
    data = _bytes(path)
    digest = graphs.digest(data, path.parent)
    graph = graphs.read(data, path.parent)
    read = reading.interpret(graph, shape)
    try:
        net = build(graph, read)
    except (LookupError, ValueError, TypeError) as error:
        raise ModelError(f"its graph is damaged ({error}); copy or export it again") from error
    tolerance = _TOLERANCE_HALVES if graph.halves else _TOLERANCE
    parity.check(graphs.whole(data, path.parent), net, read, tolerance=tolerance)
    notes = ["onnxruntime gives the same outputs"]
    if read.ending:
        notes.append(f"the {read.ending} at its end is left out, so that there are logits")
    if read.dtype == "UINT8":
        notes.append(
            "it takes whole pixels from 0 to 255; they are not rounded here, so that there are gradients"
        )
    if read.channels_last:
        notes.append("it takes images with the channels last")
    if net.plan.batch:
        notes.append(f"it takes {net.plan.batch} images at a time, which makes it slow")
    if graphs.digest(_bytes(path), path.parent) != digest:
        raise ModelError("it changed while it was read; try again when nothing writes to it")
    return Loaded(net, read.dtype == "UINT8", digest, tuple(notes))


def written(original: Path, sha256: str, net: Network, shape: tuple[int, int, int]) -> bytes:
    """The original file with the weights of `net`, after a check that onnxruntime makes the same of it.

    `sha256` is that of the original when it was loaded. Raises ModelError if it has changed since, or where
    outputs differ.
    """
    data = _bytes(original)
    if graphs.digest(data, original.parent) != sha256:
        raise ModelError(
            f"{original} has changed since it was loaded; start again with the file as it is now"
        )
    result = graphs.rewritten(data, original.parent, list(net.updates()))
    graph = graphs.read(result, original.parent)
    tolerance = _TOLERANCE_HALVES if graph.halves else _TOLERANCE
    parity.check(result, net, reading.interpret(graph, shape), tolerance=tolerance)
    return result


def wanted_size(path: Path) -> int | None:
    """Side of the square images that the model takes, if it takes no others."""
    (port, *_) = graphs.read(_bytes(path), path.parent).inputs
    return reading.wanted_size(port)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); check the path") from error
