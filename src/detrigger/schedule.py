"""How hard to press on the size of each class's trigger, and what counts as its best so far. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Pressure:
    """State of k searches that share a batch."""

    weight: Float[Tensor, " k"]
    """beta of eq. (5): loss per unit of size."""
    hardest: Float[Tensor, " k"]
    """Highest weight since there is a best."""
    success: Float[Tensor, " k"]
    """Moving average of the success rate on the images of each step, in [0, 1]."""
    best: Float[Tensor, " k"]
    """Smallest size at which the success held; infinite before the first."""
    stale: Float[Tensor, " k"]
    """Steps since the best got smaller by more than 1 %, or the weight was at its highest."""


def start(k: int, weight: float) -> Pressure:
    """Before the first step."""
    first = torch.full((k,), weight)
    return Pressure(first, first, torch.zeros(k), torch.full((k,), float("inf")), torch.zeros(k))


def press(
    state: Pressure,
    size: Float[Tensor, " k"],
    success: Float[Tensor, " k"],
    *,
    wanted: float,
    rate: float,
    memory: float,
) -> tuple[Pressure, Bool[Tensor, " k"]]:
    """After a step: the new state, and for which searches the trigger just measured is the best so far.

    The weight is multiplied by `rate` where the moving success is at least `wanted`, and divided by
    rate ** 1.5 where it is not (the ratio of Wang et al. 2019, but at every step instead of after
    `patience` steps). While it rises to new heights the search is not stale: as in Wang et al., where a
    search ends only once the weight has gone both up and down.
    """
    average = memory * state.success + (1 - memory) * success
    holds = average >= wanted
    better = holds & (size < state.best)
    much_better = holds & (size < 0.99 * state.best)
    weight = state.weight * torch.where(holds, rate, rate**-1.5)
    best = torch.where(better, size, state.best)
    return (
        Pressure(
            weight=weight,
            hardest=torch.where(best.isinf(), weight, torch.maximum(weight, state.hardest)),
            success=average,
            best=best,
            stale=torch.where(much_better | (weight > state.hardest), 0.0, state.stale + 1),
        ),
        better,
    )


def rows(state: Pressure) -> dict[str, Tensor]:
    """Its figures by name, one row per search, so that searches can be taken apart and put together."""
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def from_rows(values: dict[str, Tensor]) -> Pressure:
    """What `rows` took apart."""
    return Pressure(**{f.name: values[f.name] for f in dataclasses.fields(Pressure)})
