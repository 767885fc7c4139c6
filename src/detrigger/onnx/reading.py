"""How a graph wants its images: order of axes, type, size of the batch; and where its logits are."""

from __future__ import annotations

from dataclasses import dataclass

from detrigger.errors import ModelError
from detrigger.onnx.graph import Graph, Node, Port

_FLOATS = {"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"}
_ENDINGS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Reading:
    """How a graph is used."""

    input: str
    output: str
    """Name of the logits."""
    returned: str
    """Name of what the graph returns."""
    ending: str
    """What stands between the two: `softmax`, `sigmoid` or nothing."""
    dtype: str
    """Of the images: `FLOAT`, `UINT8` and so on."""
    channels_last: bool
    """Images are N×H×W×C."""
    batch: int
    """Images that the graph takes at a time; 0 for any number."""
    image: tuple[int, int, int]
    """Channels, height, width."""


def interpret(graph: Graph, shape: tuple[int, int, int]) -> Reading:
    """How to use a graph for images of a shape (c, h, w).

    Raises ModelError if it is no classifier of single images, or wants images of another shape.
    """
    if len(graph.inputs) != 1 or not graph.outputs:
        names = ", ".join(port.name for port in graph.inputs) or "none"
        raise ModelError(f"its inputs are {names}, wanted one, the images; give an image classifier")
    (port,) = graph.inputs
    if port.dtype not in _FLOATS | {"UINT8"}:
        raise ModelError(f"its input {port.name!r} takes {port.dtype}, wanted images as FLOAT or UINT8")
    declared = port.shape or (None,) * 4
    if len(declared) != 4:
        raise ModelError(
            f"its input {port.name!r} takes {_told(declared)}, wanted images, N×C×H×W or N×H×W×C"
        )
    last = _channels_last(declared, shape)
    axes = (declared[3], declared[1], declared[2]) if last else declared[1:]
    _fit(axes, shape)
    returned = next((p.name for p in graph.outputs if p.dtype in _FLOATS), graph.outputs[0].name)
    output, ending = _logits(graph, returned)
    return Reading(port.name, output, returned, ending, port.dtype, last, declared[0] or 0, shape)


def wanted_size(port: Port) -> int | None:
    """Side of the square images that an input takes, if it takes no others."""
    sides = {side for side in port.shape[1:] if side not in (1, 3)}
    return sides.pop() if len(port.shape) == 4 and len(sides) == 1 else None


def _channels_last(declared: tuple[int | None, ...], shape: tuple[int, int, int]) -> bool:
    first, last = declared[1], declared[3]
    if first in (1, 3) or (first == shape[0] and last != shape[0]):
        return False
    return last in (1, 3) or last == shape[0]


def _fit(axes: tuple[int | None, ...], shape: tuple[int, int, int]) -> None:
    channels, *sides = axes
    if channels not in (None, shape[0]):
        plural = "channel" if channels == 1 else "channels"
        raise ModelError(
            f"it wants {channels} {plural}, the images have {shape[0]}; use --channels {channels}"
        )
    if any(side not in (None, own) for side, own in zip(sides, shape[1:], strict=True)):
        wanted = "×".join("any" if side is None else str(side) for side in sides)
        advice = f"use --size {sides[0]}" if len(set(sides)) == 1 else "give images of that size"
        raise ModelError(f"it wants images of {wanted}, these are {shape[1]}×{shape[2]}; {advice}")


def _logits(graph: Graph, returned: str) -> tuple[str, str]:
    """Logits have better gradients than probabilities, so a softmax at the end is left out."""
    made_by: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
    node = made_by.get(returned)
    while node is not None and node.operator in {"Identity", "Cast"}:
        node = made_by.get(node.inputs[0])
    if node is not None and node.operator in _ENDINGS:
        return node.inputs[0], _ENDINGS[node.operator]
    return returned, ""


def _told(shape: tuple[int | None, ...]) -> str:
    return "×".join("N" if side is None else str(side) for side in shape) or "a single number"
