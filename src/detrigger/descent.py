"""What a step of a search descends, and how."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

ELSEWHERE, APART = -1, -2
"""In place of a target: any class but the own, and that not the same for images of all classes."""


def losses(
    logits: Float[Tensor, "n classes"], own: Int[Tensor, " n"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Cross-entropy to the target; where there is none (`ELSEWHERE`), -log of the chance of any other class
    than the own; and where these others shall not be the same for all images (`APART`), less the entropy of
    the mean prediction of the images in this batch.
    """
    aimed = cross_entropy(logits, targets.clamp_min(0), reduction="none")
    if bool((targets >= 0).all()):
        return aimed
    away = logits.logsumexp(1) - logits.scatter(1, own[:, None], -torch.inf).logsumexp(1)
    if bool((targets == APART).any()):
        mean = logits[targets == APART].softmax(1).mean(0)
        away = away + torch.where(targets == APART, torch.xlogy(mean, mean).sum(), 0.0)
    return torch.where(targets < 0, away, aimed)


BETAS = (0.5, 0.9)
"""Of Adam."""


def adam(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, *, step: int, rate: float
) -> None:
    """The step-th step of Adam, from 1, in place (Kingma and Ba, ICLR 2015, algorithm 1).

    Not that of torch.optim, because the first optimiser of a process imports torch._dynamo: a second of CPU.
    """
    with torch.no_grad():
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = (second / (1 - BETAS[1] ** step)).sqrt_().add_(1e-8)
        parameter.addcdiv_(first, root, value=-rate / (1 - BETAS[0] ** step))
