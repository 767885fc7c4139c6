"""Trigger synthesis for many classes at once: eq. (5) of Menisov (2022).

For each class t: min over mask m and pattern T of loss(y_t, f((1 - m) x + m T)) + beta |m|.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from detrigger import fast, measure, schedule
from detrigger.errors import ModelError
from detrigger.images import Images, split
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES, Trigger

Progress = Callable[[int, int], None]
"""Called with units of work done and units in all."""

Chunk = tuple[int, ...]
"""Target classes that share a batch."""

Tensors = dict[str, Tensor]


@runtime_checkable
class Map(Protocol):
    """Like the built-in map: serial, threaded or cached. The order of results is the order of chunks."""

    def __call__(
        self, function: Callable[[Chunk], Tensors], chunks: Iterable[Chunk], /
    ) -> Iterable[Tensors]: ...


PASSES = "image_passes"
"""Name under which a chunk's result says, per class, what it took."""


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class InvertConfig:
    """How much work the search for a trigger may take."""

    steps: int = 120
    """Gradient steps per class; 1 or more."""
    images_per_step: int = 16
    """Images per class and step; 1 or more."""
    learning_rate: float = 0.2
    """Of Adam (0.5, 0.9) on the logits of mask and pattern; Wang et al. (2019) used 0.1."""
    success: float = 0.97
    """Moving average of the success rate at which the size is pressed harder; 0 to 1."""
    weight: float = 1e-3
    """First weight beta of the size, per pixel; Wang et al. (2019) used 1e-3."""
    weight_rate: float = 1.1
    """Factor on the weight per step while the success holds; above 1."""
    memory: float = 0.8
    """Of the moving average of success; 0 to 1."""
    patience: int = 40
    """Steps with neither a smaller trigger nor a new highest weight after which a class that has a trigger
    stops; 1 or more."""
    held_out: float = 0.4
    """Share of the images kept to measure success, never searched on; 0 to 1."""
    measured: int = 128
    """Held-out images per trigger at most."""
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

    A class's result depends on the model, the images, the class, the seed and the config alone (up to
    rounding, if classes are put into other chunks). Images of the target class are left out for it.
    Raises ModelError for a network whose outputs or gradients are not finite.
    """
    searched, held_out = split(images, (1 - config.held_out, config.held_out), seed=seed)
    at_once = max(1, config.batch // config.images_per_step)
    chunks = [targets[start : start + at_once] for start in range(0, len(targets), at_once)]
    quick = fast.fastest(model, searched.x[: config.batch], config.precision)
    total, done = len(chunks) * config.steps, 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(min(done, total), total)

    results = []
    for result in map(lambda chunk: _search(quick, searched, chunk, family, config, seed, tick), chunks):
        results.append(result)
        done = max(done, len(results) * config.steps)
        progress(done, total)
    merged = {name: torch.cat([r[name] for r in results]) for name in results[0]}
    passes = int(merged.pop(PASSES).sum())
    trigger = FAMILIES[family].build(merged, images.shape)
    success = []
    for i, target in enumerate(targets):
        others = sample(held_out, target, config.measured, seed)
        success.append(measure.success(model, others, trigger[i], target))
        passes += len(others)
    return Inversion(family, targets, trigger, trigger.size(), torch.tensor(success), passes, quick.precision)


def sample(images: Images, target: int, count: int, seed: int) -> Images:
    """At most `count` images that are not of the target class, drawn at random."""
    others = (images.y.cpu() != target).nonzero()[:, 0]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return images.where(others[order[:count]].to(images.x.device))


def _search(
    model: Classifier,
    images: Images,
    targets: tuple[int, ...],
    family: str,
    config: InvertConfig,
    seed: int,
    tick: Callable[[], None],
) -> Tensors:
    k, n = len(targets), config.images_per_step
    generators = [torch.Generator().manual_seed(seed * 100_003 + t) for t in targets]
    parameters = FAMILIES[family].init(k, images.shape, generators)
    parameters = {name: p.requires_grad_() for name, p in parameters.items()}
    best = {name: p.detach().clone() for name, p in parameters.items()}
    others = [(images.y != t).nonzero()[:, 0] for t in targets]
    labels = torch.tensor(targets)
    state = schedule.start(k, config.weight)
    adam = torch.optim.Adam(parameters.values(), lr=config.learning_rate, betas=(0.5, 0.9))
    stopped = torch.zeros(k, dtype=torch.bool)
    passes = 0
    for _ in range(config.steps):
        drawn = [o[torch.randint(len(o), (n,), generator=g)] for o, g in zip(others, generators, strict=True)]
        trigger = FAMILIES[family].build(parameters, images.shape)
        logits = model(trigger(images.x[torch.stack(drawn)]).flatten(0, 1))
        wanted = labels.repeat_interleave(n)
        loss = cross_entropy(logits, wanted, reduction="none").reshape(k, n).mean(1)
        check_numbers(loss)
        size = trigger.size()
        adam.zero_grad()
        (loss + state.weight * size).sum().backward()
        hit = (logits.detach().argmax(1) == wanted).float().reshape(k, n).mean(1)
        passes += k * n
        state, better = schedule.press(
            state, size.detach(), hit, wanted=config.success, rate=config.weight_rate, memory=config.memory
        )
        better &= ~stopped  # a class ends as if it were alone, whatever the others still do
        for name, p in parameters.items():
            best[name][better] = p.detach()[better]
        adam.step()
        tick()
        stopped |= (state.stale > config.patience) & state.best.isfinite()
        if bool(stopped.all()):
            break
    check_numbers(*parameters.values())
    never = state.best.isinf()
    for name, p in parameters.items():
        best[name][never] = p.detach()[never]
    return {**best, PASSES: torch.full((k,), passes // k)}


def check_numbers(*values: Tensor) -> None:
    """Raises ModelError if a search met NaN or infinity, where it can find nothing."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise ModelError(
            "the search for triggers met NaN: the network's outputs or gradients are not finite for some "
            "images in [0, 1]; check its weights, --mean and --std"
        )
