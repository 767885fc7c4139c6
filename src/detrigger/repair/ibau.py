"""Trigger-free unlearning (I-BAU): the worst change that one pattern can do to all images is unlearned.

Zeng, Chen, Park, Mao, Jin and Jia 2022, "Adversarial Unlearning of Backdoors via Implicit Hypergradient",
algorithm 1: min over weights w of max over a pattern d of the loss on images plus d. The gradient of the
outer problem counts that the worst pattern moves with the weights (eq. 3); its product with the inverse of a
Hessian is found by fixed-point steps (Grazzi et al. 2020). No trigger is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from detrigger.images import Images
from detrigger.model import Classifier, forward
from detrigger.repair import Repaired
from detrigger.repair.tuning import best_of, parted, shuffled
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class IbauConfig:
    """How strong a pattern, and how long."""

    rounds: int = 5
    """Of finding a pattern and unlearning it; 1 or more (Zeng et al. 2022: 3 to 5)."""
    learning_rate: float = 2e-4
    """Of Adam on the weights (Zeng et al. 2022: 1e-3; small networks lose their accuracy at it)."""
    radius: float = 4.0
    """Largest Euclidean norm of the pattern, in pixels that go from black to white (Zeng et al. 2022: 10, of
    normalised images)."""
    perturbed_share: float = 0.1
    """Of the images of a batch that get the pattern in the outer loss; 0 to 1."""
    terms: int = 5
    """Fixed-point steps per hypergradient; 0 leaves out how the pattern moves (Zeng et al. 2022: 5)."""
    batch: int = 64
    """Images per step."""
    accuracy_drop: float = 0.05
    """Rounds that lost more clean accuracy than this are passed over; 0 to 1."""


STEP = 0.2
"""Length of a step on the pattern, as a share of the radius."""
PASSES = 2
"""Over the images, for one pattern (Zeng et al. 2022: 1)."""
FIXED_POINT_RATE = 0.1
"""Of the gradient step whose fixed point the worst pattern is (Zeng et al. 2022)."""
SHRINKAGE = 0.001
"""Weight of the pattern's squared norm in the inner loss (Zeng et al. 2022)."""


def ibau(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: IbauConfig,
    *,
    seed: int,
) -> Repaired:
    """Unlearn in a copy, BatchNorm and dropout as in use.

    `triggers`, stacks of one, and their `targets` only help to choose where to stop; there may be none.
    """
    fit, select = parted(images, seed=seed)
    return best_of(
        model,
        select,
        triggers,
        targets,
        _rounds(model, fit, config, torch.Generator().manual_seed(seed)),
        count=config.rounds,
        accuracy_drop=config.accuracy_drop,
        label="i-bau, rounds",
    )


def _rounds(
    model: Classifier, fit: Images, config: IbauConfig, generator: torch.Generator
) -> Iterator[nn.Module]:
    """The network after each round."""
    net = copy.deepcopy(model.net).requires_grad_(True)
    adam = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    for _ in range(config.rounds):
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivatives
            pattern = worst_pattern(model, net, fit, config, generator)
            for chosen in shuffled(len(fit), config.batch, generator):
                x, y = fit.x[chosen], fit.y[chosen]
                slopes = hypergradient(model, net, x, y, pattern, config)
                for weight, slope in zip(net.parameters(), slopes, strict=True):
                    weight.grad = slope
                adam.step()
        yield net


def worst_pattern(
    model: Classifier, net: nn.Module, fit: Images, config: IbauConfig, generator: torch.Generator
) -> Float[Tensor, "1 c h w"]:
    """One pattern that, added to any image, takes it from the class that the network gives it.

    Steps of one length, not along the plain gradient as in the paper, which all but vanishes where a network
    is sure of itself.
    """
    pattern = torch.zeros(1, *fit.shape, device=fit.x.device)
    for _ in range(PASSES):
        for chosen in shuffled(len(fit), config.batch, generator):
            x = fit.x[chosen]
            with torch.no_grad():
                own = forward(model, net, x).argmax(1)
            pattern.requires_grad_()
            (slope,) = grad(_inner(model, net, x, own, pattern), pattern)
            pattern = pattern.detach() - config.radius * STEP * slope / (slope.norm() + 1e-12)
            pattern = pattern * min(1.0, config.radius / (pattern.norm().item() + 1e-12))
    return pattern.requires_grad_()


def hypergradient(
    model: Classifier, net: nn.Module, x: Tensor, y: Tensor, pattern: Tensor, config: IbauConfig
) -> tuple[Tensor, ...]:
    """Gradient of the outer loss in all weights, the pattern following the weights.

    With F the inner gradient step, v = dL/dd + (dF/dd)^T v in fixed-point steps, then dL/dw + (dF/dw)^T v.
    """
    weights = tuple(net.parameters())
    perturbed = x.clone()
    count = max(1, round(config.perturbed_share * len(x)))
    perturbed[:count] = (perturbed[:count] + pattern).clamp(0, 1)  # shuffled: these are any of the batch
    outer = cross_entropy(forward(model, net, perturbed), y)
    slope, *direct = grad(outer, (pattern, *weights), allow_unused=True)
    (inner,) = grad(_inner(model, net, x, y, pattern), pattern, create_graph=True)
    step = pattern - FIXED_POINT_RATE * inner
    v = slope
    for _ in range(config.terms):
        (moved,) = grad(step, pattern, v, retain_graph=True)
        v = slope + moved
    implied = grad(step, weights, v, allow_unused=True) if config.terms else (None,) * len(weights)
    zero = torch.zeros(())
    return tuple(
        (zero if a is None else a) + (zero if b is None else b) + torch.zeros_like(w)
        for w, a, b in zip(weights, direct, implied, strict=True)
    )


def _inner(model: Classifier, net: nn.Module, x: Tensor, y: Tensor, pattern: Tensor) -> Tensor:
    """What the pattern is to make small."""
    loss: Tensor = cross_entropy(forward(model, net, (x + pattern).clamp(0, 1)), y)
    return SHRINKAGE * pattern.square().sum() - loss
