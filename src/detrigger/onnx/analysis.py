"""What can be told of a graph without running it: what is needed, what is known, what can be trained."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from detrigger.errors import ModelError
from detrigger.onnx.graph import Graph, Node
from detrigger.onnx.network import Network, Step
from detrigger.onnx.operators import find

_SETTINGS = {"Resize": (1, 2), "Upsample": (1,), "BatchNormalization": (3, 4)}
"""Inputs that are no weights to be trained."""
_SHOWN = 4


def needed(graph: Graph, output: str) -> list[Node]:
    """Nodes that the output depends on."""
    wanted, kept = {output}, []
    for node in reversed(graph.nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]


def check(nodes: Sequence[Node], opset: int) -> None:
    unknown = Counter(n.operator for n in nodes if find(n.operator, opset) is None)
    if unknown:
        named = [f"{name} ({count} {'node' if count == 1 else 'nodes'})" for name, count in unknown.items()]
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        raise ModelError(
            f"its operators {', '.join(named[:_SHOWN])}{more} are not supported; export the model again as "
            "plain float32, or give its weights as safetensors with --arch"
        )


def trainable(graph: Graph, name: str, users: dict[str, list[Node]]) -> bool:
    value = graph.values[name]
    if name not in graph.weights or not value.is_floating_point() or value.numel() < 2:
        return False
    return not any(
        name in [node.inputs[i] for i in _SETTINGS.get(node.operator, ()) if i < len(node.inputs)]
        for node in users.get(name, ())
    )


def own_name(told: str, taken: set[str]) -> str:
    """A name that a module can have."""
    plain = re.sub(r"\W+", "_", told).strip("_") or "unnamed"
    plain = f"n{plain}" if plain[0].isdecimal() else plain
    names = (plain, *(f"{plain}_{i}" for i in range(2, len(taken) + 4)))
    return next(name for name in names if name not in taken and not hasattr(Network, name) and name != "plan")


def forgetting(steps: Sequence[Step], output: str) -> tuple[Step, ...]:
    """With what each step is the last to use, so that memory is freed."""
    made, last = {}, {}
    for i, step in enumerate(steps):
        made.update(dict.fromkeys(step.outputs, i))
        last.update(dict.fromkeys((name for name in step.inputs if name in made), i))
    done: dict[int, list[str]] = {}
    for name, i in ({**made, **last}).items():
        if name and name != output:
            done.setdefault(i, []).append(name)
    return tuple(dataclasses.replace(step, done=tuple(done.get(i, ()))) for i, step in enumerate(steps))
