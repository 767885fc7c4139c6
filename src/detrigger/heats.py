"""One heat of a search: gradient steps on a batch that several goals share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger import fast, schedule
from detrigger.descent import APART, KEPT, adam, losses
from detrigger.errors import ModelError
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES

Progress = Callable[[int, int], None]
"""Called with units of work done and units in all."""

Tick = Callable[[int], None]
"""Called with the steps of single classes that were just done; what it raises ends the work."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Goal:
    """What one trigger is to achieve."""

    target: int | None
    """Class that stamped images shall be given; None: any but their own, and not all the same."""
    source: int | None = None
    """Class whose images are to be sent there; None: all others."""

    @property
    def code(self) -> int:
        """The target, or what `losses` takes for want of one."""
        return APART if self.target is None else self.target

    def victims(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """Positions of the images it is about."""
        if self.source is not None:
            wanted = labels == self.source
        else:
            wanted = (
                torch.ones_like(labels, dtype=torch.bool) if self.target is None else labels != self.target
            )
        return wanted.cpu().nonzero()[:, 0]

    def bystanders(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """Positions of the images of other classes than the source's."""
        assert self.source is not None
        return labels.ne(self.source).cpu().nonzero()[:, 0]


@dataclass(frozen=True)
class Chunk:
    """Goals that share a batch."""

    family: str
    stage: int
    """From 0."""
    goals: tuple[Goal, ...]
    rows: Tensors = field(default_factory=dict, repr=False, compare=False)
    """State of the goals so far, which follows from all that went before."""
    seed: int = 0
    """Of the search that it is part of."""


Work = Callable[[Chunk, Tick], Tensors]
"""What is to be done with each chunk; a value that can be sent to another process."""


@runtime_checkable
class Map(Protocol):
    """Does work on chunks, here or elsewhere. Results come in any order, each with its chunk."""

    def __call__(
        self, work: Work, chunks: Iterable[Chunk], tick: Tick, /
    ) -> Iterable[tuple[Chunk, Tensors]]: ...


def serial(work: Work, chunks: Iterable[Chunk], tick: Tick, /) -> Iterator[tuple[Chunk, Tensors]]:
    """The plainest map: one chunk after another, in this thread."""
    for chunk in chunks:
        yield chunk, work(chunk, tick)


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
    """Factor on the weight per step while the success holds; 1 or more, and 1 leaves it as it is."""
    memory: float = 0.8
    """Of the moving average of success; 0 to 1."""
    patience: int = 40
    """Steps with neither a smaller trigger nor a new highest weight after which a class that has a trigger
    stops; 1 or more."""
    held_out: float = 0.4
    """Share of the images kept to measure success, never searched on; 0 to 1."""
    measured: int = 64
    """Held-out images at most, per class of the last heat; a quarter of it for the others."""
    kept: float = 0.0
    """Of the images of a step, the share that are of other classes than the source, and are to keep theirs:
    such a trigger works on its source alone. Only if all goals have a source; 0 to below 1."""
    batch: int = 320
    """Images per forward and backward pass at most, which classes share; fewer if they are large."""
    precision: fast.Precision = "fp32"
    """Of the search; success is always measured in fp32."""


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
        **{name: row.clone() for name, row in schedule.rows(pressure).items()},
        "passes": torch.zeros(k, dtype=torch.long),
    }


FREE = 10_006
"""In place of a target in the seeds of goals that have none."""


def _generators(goals: tuple[Goal, ...], seed: int) -> list[torch.Generator]:
    """One per goal, that depends on the goal and the seed alone."""
    targets = [FREE if g.target is None else g.target for g in goals]
    numbers = [
        t + 10_007 * (0 if g.source is None else g.source + 1) for t, g in zip(targets, goals, strict=True)
    ]
    return [torch.Generator().manual_seed(seed * 1_000_003 + n) for n in numbers]


@dataclass(frozen=True)
class Heat:
    """One stage on one chunk; a value, so that a map can send it anywhere."""

    model: Classifier
    images: Images
    stage: Stage
    config: InvertConfig
    seed: int

    def __call__(self, chunk: Chunk, tick: Tick) -> Tensors:
        """The state of the chunk's classes after the stage."""
        family, goals = FAMILIES[chunk.family], chunk.goals
        rows = {name: row.clone() for name, row in chunk.rows.items()}  # they may be views into those of all
        k, n, x = len(goals), self.stage.images, self.images.x
        generators = _generators(goals, self.seed)
        names = [name.removeprefix("now:") for name in rows if name.startswith("now:")]
        parameters = {name: rows[f"now:{name}"].to(x.device).requires_grad_() for name in names}
        best = {name: rows[f"best:{name}"] for name in names}
        others = [goal.victims(self.images.y) for goal in goals]
        moved = n - round(self.config.kept * n)
        groups = [(others, moved)]
        codes = torch.tensor([goal.code for goal in goals], device=x.device)[:, None].repeat(1, n)
        if moved < n:
            groups.append(([goal.bystanders(self.images.y) for goal in goals], n - moved))
            codes[:, moved:] = KEPT
        targets = codes.flatten()
        state = schedule.from_rows(rows)
        moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
        stopped = torch.zeros(k, dtype=torch.bool)
        passes = 0
        for step in range(1, self.stage.steps + 1):
            drawn = torch.cat([_drawn(part, count, generators) for part, count in groups], 1).to(x.device)
            trigger = family.build(parameters, self.images.shape)
            size = trigger.size()
            stamped = trigger(x[drawn]).flatten(0, 1)
            own = self.images.y[drawn].flatten()
            pressure = (state.weight.to(x.device) * size).sum()
            gradients, hit = self._push(stamped, own, targets, pressure, tuple(parameters.values()))
            passes += n
            state, better = schedule.press(
                state,
                size.detach().cpu(),
                hit.float().reshape(k, n)[:, :moved].mean(1).cpu(),
                wanted=self.config.success,
                rate=self.config.weight_rate,
                memory=self.config.memory,
            )
            better &= ~stopped  # a class ends as if it were alone, whatever the others still do
            for name, p in parameters.items():
                best[name][better] = p.detach().cpu()[better]
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                adam(p, gradient, *moments[name], step=step, rate=family.learning_rate)
            tick(k)
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

    def _push(
        self,
        stamped: Float[Tensor, "n c h w"],
        own: Int[Tensor, " n"],
        targets: Int[Tensor, " n"],
        pressure: Float[Tensor, ""],
        parameters: tuple[Tensor, ...],
    ) -> tuple[tuple[Tensor, ...], Bool[Tensor, " n"]]:
        """Gradients of loss and pressure by the parameters behind them; which images got what was wanted.

        The network sees no more images at once than fit into memory.
        """
        slopes, hits = [], []
        at_once = self.model.at_once or len(stamped)
        parts = zip(*(t.split(at_once) for t in (stamped, own, targets)), strict=True)
        for part, labels, goals in parts:
            leaf = part.detach().requires_grad_()
            logits = self.model(leaf)
            loss = losses(logits, labels, goals)
            check_numbers(loss)
            slopes.append(torch.autograd.grad(loss.sum() / self.stage.images, leaf)[0])
            said = logits.detach().argmax(1)
            hits.append(torch.where(goals < 0, said != labels, said == goals))
        outputs = (stamped, pressure)
        gradients = torch.autograd.grad(
            outputs, parameters, (torch.cat(slopes), None), materialize_grads=True
        )
        return gradients, torch.cat(hits)


def _drawn(
    positions: list[Int[Tensor, " _m"]], count: int, generators: list[torch.Generator]
) -> Int[Tensor, "k count"]:
    """For each goal, some of its positions, at random."""
    pairs = zip(positions, generators, strict=True)
    return torch.stack([p[torch.randint(len(p), (count,), generator=g)] for p, g in pairs])


def check_numbers(*values: Tensor) -> None:
    """Raises ModelError if a search met NaN or infinity, where it can find nothing."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise ModelError(
            "the search for triggers met NaN: the network's outputs or gradients are not finite for some "
            "images in [0, 1]; check its weights, --mean and --std"
        )
