"""Trigger synthesis for many classes at once: eq. (5) of Menisov (2022).

For each class t: min over the parameters of a trigger T of loss(y_t, f(T(x))) + beta |T|; for a patch, T(x)
is (1 - m) x + m p. Classes race: all of them start, the ones with the smallest triggers go on.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from detrigger import fast, measure, schedule
from detrigger.errors import ModelError
from detrigger.images import Images, split
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES, Trigger

Progress = Callable[[int, int], None]
"""Called with units of work done and units in all."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Chunk:
    """Target classes that share a batch."""

    family: str
    stage: int
    """From 0."""
    targets: tuple[int, ...]


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
    measured: int = 96
    """Held-out images at most, per class of the last heat; a quarter of it for the others."""
    batch: int = 320
    """Images per forward and backward pass; classes share one."""
    precision: fast.Precision = "auto"
    """Of the search: bf16 where that is measured to be faster. Success is always measured in fp32."""


@dataclass(frozen=True)
class Inversion:
    """The smallest trigger found for each of k target classes."""

    family: str
    targets: tuple[int, ...]
    trigger: Trigger = field(repr=False)
    """A stack of k."""
    size: Float[Tensor, " k"]
    """In the unit of the family."""
    success: Float[Tensor, " k"]
    """Attack success rate in fp32 on held-out images that are not of the target class."""
    heats: Int[Tensor, " k"]
    """How many heats each class took part in."""
    image_passes: int
    precision: str = "fp32"
    """Of the search."""


def invert(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    family: str,
    config: InvertConfig,
    *,
    seed: int,
    map: Map = builtins.map,
    progress: Progress = silent,
) -> Inversion:
    """Smallest trigger of a family for each target class.

    A class's result depends on the model, the images, the seed, the config, and on how far it got in the
    race; not on how classes were put into chunks (up to rounding). Images of the target class are left out
    for it. Raises ModelError for a network whose outputs or gradients are not finite.
    """
    searched, held_out = split(images, (1 - config.held_out, config.held_out), seed=seed)
    quick = fast.fastest(model, searched.x[: config.batch], config.precision)
    counts = [_starters(stage, len(targets)) for stage in config.stages]
    total = sum(stage.steps * n for stage, n in zip(config.stages, counts, strict=True))
    done = 0

    def tick(classes: int) -> None:
        nonlocal done
        done += classes
        progress(min(done, total), total)

    rows = _start(family, targets, images.shape, config, seed)
    heats = torch.zeros(len(targets), dtype=torch.long)
    for number, (stage, count) in enumerate(zip(config.stages, counts, strict=True)):
        racing = _order(rows)[:count].sort().values
        heats[racing] += 1
        at_once = max(1, config.batch // stage.images)
        groups = racing.split(at_once)
        chunks = [Chunk(family, number, tuple(targets[i] for i in group)) for group in groups]
        given = {
            chunk: {n: r[group] for n, r in rows.items()} for chunk, group in zip(chunks, groups, strict=True)
        }
        run = _Heat(quick, searched, stage, config, seed + 7919 * number, given, tick)
        for group, result in zip(groups, map(run, chunks), strict=True):
            rows = {name: row.index_copy(0, group, result[name]) for name, row in rows.items()}
    best = {n.removeprefix("best:"): r.to(images.x) for n, r in rows.items() if n.startswith("best:")}
    trigger = FAMILIES[family].build(best, images.shape)
    passes = int(rows["passes"].sum())
    success = []
    for i, target in enumerate(targets):
        finalist = bool(heats[i] == len(config.stages))
        others = sample(held_out, target, config.measured if finalist else config.measured // 4, seed)
        success.append(measure.success(model, others, trigger[i], target))
        passes += len(others)
    return Inversion(
        family, targets, trigger, trigger.size(), torch.tensor(success), heats, passes, quick.precision
    )


def _order(rows: Tensors) -> Int[Tensor, " k"]:
    """Smallest trigger first; those without one last, by how often they succeed."""
    none = rows["best"].isinf()
    return torch.where(none, 1e12 * (2 - rows["success"]), rows["best"]).argsort(stable=True)


def _starters(stage: Stage, classes: int) -> int:
    return min(classes, max(LEAST, round(stage.share * classes)))


def sample(images: Images, target: int, count: int, seed: int) -> Images:
    """At most `count` images that are not of the target class, drawn at random."""
    others = (images.y.cpu() != target).nonzero()[:, 0]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return images.where(others[order[:count]].to(images.x.device))


def _start(
    family: str, targets: tuple[int, ...], shape: tuple[int, int, int], config: InvertConfig, seed: int
) -> Tensors:
    """State of every class before the first step, one row each."""
    k = len(targets)
    parameters = FAMILIES[family].init(
        k, shape, [torch.Generator().manual_seed(seed * 100_003 + t) for t in targets]
    )
    pressure = schedule.start(k, config.weight / FAMILIES[family].typical(shape))
    return {
        **{f"now:{name}": p for name, p in parameters.items()},
        **{f"best:{name}": p.clone() for name, p in parameters.items()},
        **schedule.rows(pressure),
        "passes": torch.zeros(k, dtype=torch.long),
    }


@dataclass(frozen=True)
class _Heat:
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
        rows, family, targets = self.given[chunk], FAMILIES[chunk.family], chunk.targets
        k, n, x = len(targets), self.stage.images, self.images.x
        generators = [torch.Generator().manual_seed(self.seed * 100_003 + t) for t in targets]
        names = [name.removeprefix("now:") for name in rows if name.startswith("now:")]
        parameters = {name: rows[f"now:{name}"].clone().to(x.device).requires_grad_() for name in names}
        best = {name: rows[f"best:{name}"].clone() for name in names}
        others = [(self.images.y.cpu() != t).nonzero()[:, 0] for t in targets]
        wanted = torch.tensor(targets, device=x.device).repeat_interleave(n)
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
