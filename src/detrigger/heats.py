"""One heat of a search: gradient steps on a batch that several goals share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from detrigger import fast, schedule
from detrigger.errors import ModelError
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES

Progress = Callable[[int, int], None]
"""Called with units of work done and units in all."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Goal:
    """What one trigger is to achieve."""

    target: int
    """Class that stamped images shall be given."""
    source: int | None = None
    """Class whose images are to be sent there; None: all others."""

    def victims(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """Positions of the images it is about."""
        wanted = labels != self.target if self.source is None else labels == self.source
        return wanted.cpu().nonzero()[:, 0]


@dataclass(frozen=True)
class Chunk:
    """Goals that share a batch."""

    family: str
    stage: int
    """From 0."""
    goals: tuple[Goal, ...]


@runtime_checkable
class Map(Protocol):
    """Like the built-in map: serial, threaded or cached. The order of results is the order of chunks."""

    def __call__(
        self, function: Callable[[Chunk], Tensors], chunks: Iterable[Chunk], /
    ) -> Iterable[Tensors]: ...


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Stage:
    """One heat of the race."""

    steps: int
    """Gradient steps per class; 1 or more."""
    images: int
    """Per class and step; 1 or more."""
    share: float = 1.0
    """Of all classes that take part, those with the smallest triggers so far; above 0 to 1."""


LEAST = 4
"""Classes that take part in any heat, however many there are."""


@dataclass(frozen=True)
class InvertConfig:
    """How the search for triggers of one family goes."""

    stages: tuple[Stage, ...] = (Stage(40, 8), Stage(40, 8, 0.4), Stage(50, 16, 0.15))
    """Heats, each with fewer classes."""
    success: float = 0.97
    """Moving average of the success rate at which the size is pressed harder; 0 to 1."""
    weight: float = 0.6
    """First weight beta of the size, per typical size of the family."""
    weight_rate: float = 1.15
    """Factor on the weight per step while the success holds; above 1."""
    memory: float = 0.8
    """Of the moving average of success; 0 to 1."""
    patience: int = 40
    """Steps with neither a smaller trigger nor a new highest weight after which a class that has a trigger
    stops; 1 or more."""
    held_out: float = 0.4
    """Share of the images kept to measure success, never searched on; 0 to 1."""
    measured: int = 64
    """Held-out images at most, per class of the last heat; a quarter of it for the others."""
    batch: int = 320
    """Images of up to 64 × 64 pixels per forward and backward pass, which classes share; fewer if larger."""
    precision: fast.Precision = "auto"
    """Of the search: bf16 where that is measured to be faster. Success is always measured in fp32."""


def start(
    family: str, goals: tuple[Goal, ...], shape: tuple[int, int, int], config: InvertConfig, seed: int
) -> Tensors:
    """State of every goal before the first step, one row each."""
    k = len(goals)
    parameters = FAMILIES[family].init(k, shape, _generators(goals, seed))
    pressure = schedule.start(k, config.weight / FAMILIES[family].typical(shape))
    return {
        **{f"now:{name}": p for name, p in parameters.items()},
        **{f"best:{name}": p.clone() for name, p in parameters.items()},
        **schedule.rows(pressure),
        "passes": torch.zeros(k, dtype=torch.long),
    }


def _generators(goals: tuple[Goal, ...], seed: int) -> list[torch.Generator]:
    """One per goal, that depends on the goal and the seed alone."""
    numbers = [g.target + 10_007 * (0 if g.source is None else g.source + 1) for g in goals]
    return [torch.Generator().manual_seed(seed * 1_000_003 + n) for n in numbers]


@dataclass(frozen=True)
class Heat:
    """One stage on one chunk; a value, so that a map can send it anywhere."""

    model: Classifier
    images: Images
    stage: Stage
    config: InvertConfig
    seed: int
    given: dict[Chunk, Tensors]
    tick: Callable[[int], None]

    def __call__(self, chunk: Chunk) -> Tensors:
        """The state of the chunk's classes after the stage."""
        rows, family, goals = self.given[chunk], FAMILIES[chunk.family], chunk.goals
        k, n, x = len(goals), self.stage.images, self.images.x
        generators = _generators(goals, self.seed)
        names = [name.removeprefix("now:") for name in rows if name.startswith("now:")]
        parameters = {name: rows[f"now:{name}"].clone().to(x.device).requires_grad_() for name in names}
        best = {name: rows[f"best:{name}"].clone() for name in names}
        others = [goal.victims(self.images.y) for goal in goals]
        wanted = torch.tensor([goal.target for goal in goals], device=x.device).repeat_interleave(n)
        state = schedule.from_rows(rows)
        adam = torch.optim.Adam(parameters.values(), lr=family.learning_rate, betas=(0.5, 0.9))
        stopped = torch.zeros(k, dtype=torch.bool)
        passes = 0
        for _ in range(self.stage.steps):
            drawn = [
                o[torch.randint(len(o), (n,), generator=g)] for o, g in zip(others, generators, strict=True)
            ]
            trigger = family.build(parameters, self.images.shape)
            logits = self.model(trigger(x[torch.stack(drawn).to(x.device)]).flatten(0, 1))
            loss = cross_entropy(logits, wanted, reduction="none").reshape(k, n).mean(1)
            check_numbers(loss)
            size = trigger.size()
            adam.zero_grad()
            (loss + state.weight.to(x.device) * size).sum().backward()
            hit = (logits.detach().argmax(1) == wanted).float().reshape(k, n).mean(1)
            passes += n
            state, better = schedule.press(
                state,
                size.detach().cpu(),
                hit.cpu(),
                wanted=self.config.success,
                rate=self.config.weight_rate,
                memory=self.config.memory,
            )
            better &= ~stopped  # a class ends as if it were alone, whatever the others still do
            for name, p in parameters.items():
                best[name][better] = p.detach().cpu()[better]
            adam.step()
            self.tick(k)
            stopped |= (state.stale > self.config.patience) & state.best.isfinite()
            if bool(stopped.all()):
                break
        check_numbers(*parameters.values())
        never = state.best.isinf()
        for name, p in parameters.items():
            best[name][never] = p.detach().cpu()[never]
        return {
            **{f"now:{name}": p.detach().cpu() for name, p in parameters.items()},
            **{f"best:{name}": b for name, b in best.items()},
            **schedule.rows(state),
            "passes": rows["passes"] + passes,
        }


def check_numbers(*values: Tensor) -> None:
    """Raises ModelError if a search met NaN or infinity, where it can find nothing."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise ModelError(
            "the search for triggers met NaN: the network's outputs or gradients are not finite for some "
            "images in [0, 1]; check its weights, --mean and --std"
        )
