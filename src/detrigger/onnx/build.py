"""From a graph to a network: which nodes are layers, which values are constant, which weights are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from detrigger.errors import ModelError
from detrigger.onnx.analysis import check, forgetting, needed, own_name, trainable
from detrigger.onnx.graph import Graph, Node
from detrigger.onnx.layers import Layer, layer
from detrigger.onnx.network import Binding, Network, Plan, Step, together, with_batch
from detrigger.onnx.operators import Operator, find
from detrigger.onnx.reading import Reading
from detrigger.onnx.shapes import reshape_whole_batches, room

_PASSING = {"Identity", "Dropout", "Cast"}
"""Operators that do not change a float."""
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, OverflowError)


@dataclass
class _Draft:
    """A plan in the making."""

    graph: Graph
    users: dict[str, list[Node]]
    """Of each value."""
    values: dict[str, Tensor]
    """What depends on the images, while the graph runs once."""
    constants: dict[str, Tensor]
    reading: Reading
    sources: dict[str, str] = field(default_factory=dict)
    """Other names of a tensor of the file."""
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, nn.Module] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)
    merged: set[int] = field(default_factory=set)
    """Nodes that became part of an earlier layer."""


def build(graph: Graph, reading: Reading) -> Network:
    """The network of a graph. It is run once, on noise, to see what each node is given.

    Raises ModelError for operators that are not supported, all of them by name, and where a node fails.
    """
    nodes = needed(graph, reading.output)
    check(nodes, graph.opset)
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    constants = {name: value for name, value in graph.values.items() if not trainable(graph, name, users)}
    noise = torch.rand(reading.batch or 2, *reading.image, generator=torch.Generator().manual_seed(0))
    fed = noise.permute(0, 2, 3, 1) if reading.channels_last else noise
    draft = _Draft(graph, users, {reading.input: fed}, constants, reading)
    with torch.no_grad():
        for node in nodes:
            if node.index not in draft.merged:
                _add(draft, node)
    if reading.output not in draft.values:
        raise ModelError(
            f"its output {reading.output!r} does not depend on its input; export the model again"
        )
    used = {name for step in draft.steps for name in step.inputs}
    plan = Plan(
        forgetting(draft.steps, reading.output),
        draft.parameters,
        {name: value for name, value in draft.constants.items() if name in used},
        tuple(draft.bindings),
        reading.input,
        reading.output,
        reading.ending,
        reading.channels_last,
    )
    loose = {own: graph.values[name] for name, own in draft.parameters.items()}
    return _for_any_batch(Network(plan, draft.layers, loose), reading)


def _add(draft: _Draft, node: Node) -> None:
    """One node, as a constant, another name, a layer, or a plain step."""
    known, graph = draft.constants, draft.graph
    node = dataclasses.replace(node, inputs=tuple(draft.sources.get(name, name) for name in node.inputs))
    if (
        node.operator in _PASSING
        and node.inputs[0] in graph.values
        and graph.values[node.inputs[0]].is_floating_point()
    ):
        draft.sources[node.outputs[0]] = node.inputs[0]
        return
    bias = _bias_after(draft, node)
    if bias is not None:
        draft.merged.add(bias.index)
        added = next(name for name in bias.inputs if name != node.outputs[0])
        node = dataclasses.replace(node, inputs=(*node.inputs, added), outputs=bias.outputs)
    inputs = together([_value(draft, name) for name in node.inputs])
    weights = [graph.values[name] if name in graph.weights else None for name in node.inputs]
    x = draft.values.get(node.inputs[0])
    made = None if x is None else layer(node, x, weights)
    run = _operator(draft, node, inputs) if made is None else made.before
    results = _results(node, run, made, inputs)
    if all(name in known or not name for name in node.inputs):
        known.update(zip(node.outputs, results, strict=False))
        return
    draft.values.update(zip(node.outputs, results, strict=False))
    if made is None:
        _keep_loose(draft, node)
        draft.steps.append(Step(run, "", node.inputs, node.outputs[: len(results)]))
    else:
        name = _keep_layer(draft, node, made, bias)
        draft.steps.append(Step(run, name, node.inputs[:1], node.outputs[:1]))


def _bias_after(draft: _Draft, node: Node) -> Node | None:
    """The Add behind a MatMul that makes both together a linear layer."""
    users = draft.users.get(node.outputs[0], [])
    if node.operator != "MatMul" or len(users) != 1 or users[0].operator != "Add":
        return None
    weights, others = draft.graph.weights, [name for name in users[0].inputs if name != node.outputs[0]]
    if node.inputs[1] not in weights or len(others) != 1 or others[0] not in weights:
        return None
    matrix, bias = (draft.graph.values[name] for name in (node.inputs[1], others[0]))
    fits = matrix.ndim == 2 and bias.shape == matrix.shape[1:] and node.outputs[0] != draft.reading.output
    return users[0] if fits else None


def _value(draft: _Draft, name: str) -> Tensor | None:
    if not name:
        return None
    for known in (draft.values, draft.constants, draft.graph.values):
        if name in known:
            return known[name]
    raise ModelError(f"its value {name!r} is used before it is made; the file is damaged")


def _operator(draft: _Draft, node: Node, inputs: Sequence[Tensor | None]) -> Operator:
    operator, attributes = find(node.operator, draft.graph.opset), dict(node.attributes)
    assert operator is not None
    if node.operator == "Split" and len(inputs) < 2 and not attributes.keys() & {"split", "num_outputs"}:
        attributes["num_outputs"] = len(node.outputs)
    if (
        node.operator == "Reshape"
        and draft.reading.batch
        and node.inputs[-1] in draft.constants
        and inputs[0] is not None
    ):
        operator, attributes["values"] = reshape_whole_batches, max(1, inputs[0].numel())
    return partial(operator, **attributes)


def _results(
    node: Node, run: Operator | None, made: Layer | None, inputs: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    try:
        if made is None:
            assert run is not None
            results = run(*inputs)
        else:
            results = made.module(inputs[0] if run is None else run(inputs[0]))
    except _FAILURES as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"its node {node.name or node.outputs[0]!r} ({node.operator}) fails: {reason}"
        ) from error
    results = results if isinstance(results, tuple) else (results,)
    for result in results:
        room(result.shape)
    return results


def _keep_loose(draft: _Draft, node: Node) -> None:
    for name in node.inputs:
        if name in draft.graph.values and name not in draft.constants and name not in draft.parameters:
            own = own_name(name, {*draft.layers, *draft.parameters.values()})
            draft.parameters[name] = own
            draft.bindings.append(Binding(own, name))


def _keep_layer(draft: _Draft, node: Node, made: Layer, bias: Node | None) -> str:
    """The layer under a name like that of its weight."""
    told = node.inputs[1].removesuffix(".weight").removesuffix("/kernel")
    if told.startswith(("onnx::", "val_", "_val")) or told.isdecimal():  # names that exporters make up
        told = node.name or told
    name = own_name(told, {*draft.layers, *draft.parameters.values()})
    draft.layers[name] = made.module
    for place, number in made.tensors:
        use = (node.index, number)
        if bias is not None and place == "bias":
            use = (bias.index, bias.inputs.index(node.inputs[number]))
        turned = made.transposed and place == "weight"
        draft.bindings.append(Binding(f"{name}.{place}", node.inputs[number], turned, (use,)))
    return name


def _for_any_batch(net: Network, reading: Reading) -> Network:
    """A graph made for one size of batch may work for others; if not, it is given its own."""
    batch = reading.batch
    if not batch:
        return net
    x = torch.rand(2 * batch, *reading.image, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        parts = torch.cat([net(x[:batch]), net(x[batch:])])
        try:
            whole = net(x)
        except _FAILURES:
            return with_batch(net, batch)
    same = whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-3, atol=1e-4)
    return net if same else with_batch(net, batch)
