"""A graph as a PyTorch module: run node by node, with its weights as parameters that can be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.onnx.graph import Update
from detrigger.onnx.operators import Operator


@dataclass(frozen=True)
class Step:
    """One node, or one layer."""

    run: Operator | None
    """What it does; for a layer, what is done to its input first, if anything."""
    layer: str
    """Name of the submodule; empty for what is not a layer."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...] = ()
    """Values that no later step needs."""


@dataclass(frozen=True)
class Binding:
    """Where a parameter or buffer stands in the file."""

    place: str
    """In the module: `fc.weight`."""
    name: str
    """Of the tensor in the file."""
    transposed: bool = False
    uses: tuple[tuple[int, int], ...] = ()
    """Nodes, and the number of their input, that it stands for; none: all that are not layers."""


@dataclass(frozen=True)
class Plan:
    """What to run. It never changes, so copies of a network share it."""

    steps: tuple[Step, ...]
    parameters: Mapping[str, str]
    """Name in the file to name in the module, for weights that belong to no layer."""
    constants: Mapping[str, Tensor]
    """On the CPU."""
    bindings: tuple[Binding, ...]
    input: str
    output: str
    ending: str = ""
    """`softmax` or `sigmoid`: the graph ends with it, the network does not."""
    channels_last: bool = False
    """The graph takes N×H×W×C."""
    batch: int = 0
    """Images that the graph takes at a time; 0 for any number."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self


class Network(nn.Module):
    """Images as n×c×h×w in, one logit per class out. Layers are submodules, other weights its parameters."""

    def __init__(self, plan: Plan, layers: Mapping[str, nn.Module], loose: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.plan = plan
        for name, module in layers.items():
            self.add_module(name, module)
        for name, tensor in loose.items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        batch = self.plan.batch
        ready = self.fed(x)
        if not batch or len(x) == batch:
            return self._run(ready)
        parts = []
        for part in ready.split(batch):
            missing = batch - len(part)
            full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            parts.append(self._run(full)[: len(part)])
        return torch.cat(parts)

    def fed(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n _a _b _c"]:
        """Images in the order of axes that the graph takes."""
        return x.permute(0, 2, 3, 1) if self.plan.channels_last else x

    def ended(self, logits: Tensor) -> Tensor:
        """What the graph itself returns."""
        if self.plan.ending == "softmax":
            return logits.softmax(1)
        return logits.sigmoid() if self.plan.ending == "sigmoid" else logits

    def updates(self) -> Iterator[Update]:
        """All weights, as the file stores them."""
        for binding in self.plan.bindings:
            module, _, name = binding.place.rpartition(".")
            tensor: Tensor = getattr(self.get_submodule(module), name).detach()
            yield Update(binding.name, tensor.T if binding.transposed else tensor, binding.uses)

    def _run(self, ready: Float[Tensor, "n _a _b _c"]) -> Tensor:
        values: dict[str, Tensor] = {self.plan.input: ready}
        for step in self.plan.steps:
            inputs = together([self._value(name, values) for name in step.inputs])
            if step.layer:
                x = inputs[0] if step.run is None else step.run(inputs[0])
                results = self.get_submodule(step.layer)(x)
            else:
                assert step.run is not None
                results = step.run(*inputs)
            values.update(
                zip(step.outputs, results if isinstance(results, tuple) else (results,), strict=False)
            )
            for name in step.done:
                del values[name]
        out = values[self.plan.output]
        flat = out.ndim > 2 and set(out.shape[2:]) == {1}
        return out.flatten(1) if flat else out

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        if name in values:
            return values[name]
        if name in self.plan.parameters:
            return self.get_parameter(self.plan.parameters[name])
        return self.plan.constants[name] if name else None


def together(inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """All but whole numbers (sizes, positions) on the device that one of them is on."""
    devices = [x.device for x in inputs if x is not None and x.device.type != "cpu"]
    if not devices:
        return list(inputs)
    stay = (torch.int64,)
    return [x if x is None or x.dtype in stay else x.to(devices[0]) for x in inputs]


def with_batch(net: Network, batch: int) -> Network:
    """The same network (it is not copied), which takes so many images at a time."""
    net.plan = dataclasses.replace(net.plan, batch=batch)
    return net
