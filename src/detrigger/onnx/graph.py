"""An ONNX file as plain data, and changed weights back into the same file.

The one place that knows ONNX's own package. A file is data, but of anybody's making: tensors outside of it
are read only from its folder, and nothing is believed about sizes before the bytes are seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrigger.errors import ModelError
from detrigger.onnx.external import all_tensors, inside, take_in

_LARGEST = 2**31 - 1
"""Bytes of a protobuf file, by its own rules."""
_AT_ONCE = 1 << 24
_MOST = 100_000
"""Nodes, or tensors; large networks have some thousands."""
_FLOATS = {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"}
_INTEGERS = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}


@dataclass(frozen=True)
class Node:
    """One step of the graph."""

    operator: str
    """`Conv`, or `domain.Name` for one that is not of ONNX itself."""
    inputs: tuple[str, ...]
    """Names of values; empty for one that is left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Numbers, texts, tuples of them, and tensors."""
    index: int
    """Position in the file."""
    name: str = ""
    """In the file; often tells the layer."""


@dataclass(frozen=True)
class Port:
    """An input or output of the whole graph."""

    name: str
    dtype: str
    """As in ONNX: `FLOAT`, `UINT8` and so on."""
    shape: tuple[int | None, ...]
    """None for an axis of any length; empty where nothing is told."""


@dataclass(frozen=True)
class Graph:
    """Everything needed to run a graph."""

    nodes: tuple[Node, ...]
    """In an order in which they can be run."""
    values: Mapping[str, Tensor]
    """Weights and constants by name; floating types as float32, integers as int64."""
    weights: frozenset[str]
    """Names of those values that can be written back."""
    halves: bool
    """Some of them have 16 bits in the file."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int


@dataclass(frozen=True)
class Update:
    """New values for a tensor of the file."""

    name: str
    tensor: Tensor
    uses: tuple[tuple[int, int], ...] = ()
    """Nodes, and the number of their input, that are to see them; none: all."""


def read(data: bytes, folder: Path) -> Graph:
    """The graph of an ONNX file; `folder` is where its external data may be.

    Raises ModelError for a damaged file, external data outside of the folder, and what is not supported.
    """
    model = _parsed(data, folder)
    places = dict(_tensors(model))
    values = {name: _values(tensor, name) for name, tensor in places.items()}
    nodes = []
    for index, node in enumerate(model.graph.node):
        kept = {str(a.name): _attribute(a, node.op_type) for a in node.attribute}
        if node.op_type == "Constant":
            for key in kept.keys() & {"value_float", "value_int", "value_floats", "value_ints"}:
                values[str(node.output[0])] = _constant(kept[key])
            continue
        domain = "" if node.domain in {"", "ai.onnx"} else f"{node.domain}."
        inputs, outputs = (tuple(map(str, names)) for names in (node.input, node.output))
        nodes.append(Node(f"{domain}{node.op_type}", inputs, outputs, kept, index, str(node.name)))
    return Graph(
        tuple(nodes),
        values,
        frozenset(places),
        any(_kind(tensor) in {"FLOAT16", "BFLOAT16"} for tensor in places.values()),
        tuple(_port(port) for port in model.graph.input if port.name not in places),
        tuple(_port(port) for port in model.graph.output),
        next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1),
    )


def rewritten(data: bytes, folder: Path, updates: Sequence[Update]) -> bytes:
    """The same file with other weights; external data become part of it. All else stays as it is.

    A tensor that several nodes share, and that now differs between them, gets a further name per version.
    Raises ModelError if the result would be too large for one file.
    """
    model = _parsed(data, folder)
    places = dict(_tensors(model))
    groups: dict[str, list[Update]] = {}
    for update in sorted(updates, key=lambda update: bool(update.uses)):
        groups.setdefault(update.name, []).append(update)
    for name, group in groups.items():
        versions = {name: group[0].tensor}
        for update in group[1:]:
            found = next((n for n, t in versions.items() if torch.equal(t, update.tensor)), None)
            if found is None:
                found = next(n for i in range(_MOST) if (n := f"{name}.{i}") not in places)
                places[found] = model.graph.initializer.add()
                places[found].CopyFrom(places[name])
                places[found].name = found
                versions[found] = update.tensor
            if found != name:
                for node, position in update.uses:
                    model.graph.node[node].input[position] = found
        for version, tensor in versions.items():
            if not torch.equal(_values(places[version], version), tensor):
                _store(places[version], tensor)
    return _serialised(model)


def whole(data: bytes, folder: Path) -> bytes:
    """The file with its external data in it."""
    return _serialised(_parsed(data, folder))


def digest(data: bytes, folder: Path) -> str:
    """SHA-256 of the file followed by those with its external data, as hexadecimal digits."""
    total = hashlib.sha256(data)
    model = _message(data)
    told = {e.value for _, t in all_tensors(model.graph) for e in t.external_data if e.key == "location"}
    for location in sorted(told):
        with inside(location, folder).open("rb") as file:
            while part := file.read(_AT_ONCE):
                total.update(part)
    return total.hexdigest()


def _serialised(model: Any) -> bytes:
    if model.ByteSize() > _LARGEST:
        raise ModelError(
            f"the model has {model.ByteSize() / 1e9:.1f} GB, an ONNX file in one piece at most 2.1; "
            "use its weights as safetensors with --arch"
        )
    return bytes(model.SerializeToString())


def _parsed(data: bytes, folder: Path) -> Any:
    model = _message(data)
    take_in(model.graph, folder)
    return model


def _message(data: bytes) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ModelError("ONNX files need two more packages; pip install 'detrigger[onnx]'") from error
    if len(data) > _LARGEST:
        raise ModelError("an ONNX file of more than 2.1 GB is damaged; larger ones have external data")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(f"it is damaged or no ONNX model ({error}); copy or export it again") from error
    graph = model.graph
    if max(len(graph.node), len(graph.initializer), len(graph.input), len(graph.output)) > _MOST:
        raise ModelError(f"its graph has more than {_MOST:,} nodes or tensors; that is no classifier")
    if not graph.node:
        raise ModelError("its graph is empty; export the model again")
    if model.functions:
        raise ModelError(
            f"it has functions of its own ({model.functions[0].name} ...); put them in place with "
            "onnx.inliner.inline_local_functions, and save it again"
        )
    if graph.sparse_initializer:
        raise ModelError("it has sparse weights, which are not supported; save dense ones")
    return model


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Initialisers and tensors in Constant nodes, by the name that other nodes know them by.

    Names that are not UTF-8 come as bytes.
    """
    for tensor in model.graph.initializer:
        yield str(tensor.name), tensor
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            yield from ((str(node.output[0]), a.t) for a in node.attribute if a.name == "value")


def _kind(tensor: Any) -> str:
    from onnx import TensorProto

    try:
        return str(TensorProto.DataType.Name(tensor.data_type))
    except ValueError:
        return f"number {tensor.data_type}"


def _values(tensor: Any, name: str) -> Tensor:
    from onnx import numpy_helper

    kind = _kind(tensor)
    if kind not in _FLOATS | _INTEGERS | {"BOOL"}:
        raise ModelError(
            f"its tensor {name!r} is of type {kind}, which is not supported; export it as float32"
        )
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"its tensor {name!r} is damaged ({error}); copy or export it again") from error
    wanted = np.float32 if kind in _FLOATS else np.bool_ if kind == "BOOL" else np.int64
    with np.errstate(over="ignore"):  # doubles beyond float32 are meant as infinity
        return torch.from_numpy(array.astype(wanted, copy=True))


def _store(tensor: Any, values: Tensor) -> None:
    """In the type that the tensor has."""
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array = values.detach().cpu().contiguous().numpy().astype(dtype)
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.raw_data = array.astype(array.dtype.newbyteorder("<")).tobytes()


def _attribute(attribute: Any, operator: str) -> Any:
    kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
    if attribute.type not in kinds:
        return NotImplemented  # a graph within the node, which no operator here takes
    value = getattr(attribute, kinds[attribute.type])
    if attribute.type == 4:
        return _values(value, f"{operator}.{attribute.name}")
    if attribute.type == 3:
        return value.decode(errors="replace")
    if attribute.type == 8:
        return tuple(text.decode(errors="replace") for text in value)
    return value if attribute.type in {1, 2} else tuple(value)


def _constant(value: Any) -> Tensor:
    tensor = torch.tensor(value)
    return tensor.float() if tensor.is_floating_point() else tensor


def _port(port: Any) -> Port:
    kind = port.type.tensor_type
    known = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim
    )
    from onnx import TensorProto

    return Port(str(port.name), str(TensorProto.DataType.Name(kind.elem_type)), known)
