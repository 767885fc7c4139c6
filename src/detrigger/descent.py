"""What a step of a search descends, and how."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

APART, KEPT = -1, -2
"""In place of a target: any class but the own, and that not the same for images of all classes; and the own
class, which is to be kept."""

KEEPING = 2.0
"""Weight of images that are to keep their class."""


def losses(
    logits: Float[Tensor, "n classes"], own: Int[Tensor, " n"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Cross-entropy to the target; where there is none (`APART`), -log of the chance of any other class than
    the own, less the entropy of the mean prediction of these images. For images that are to keep their class
    (`KEPT`), one less its chance, times `KEEPING`: bounded, so that a few that cannot keep it do not decide.
    """
    result = cross_entropy(logits, targets.clamp_min(0), reduction="none")
    if bool((apart := targets == APART).any()):
        away = logits.logsumexp(1) - logits.scatter(1, own[:, None], -torch.inf).logsumexp(1)
        mean = logits[apart].softmax(1).mean(0)
        result = torch.where(apart, away + torch.xlogy(mean, mean).sum(), result)
    if bool((kept := targets == KEPT).any()):
        stays = logits.softmax(1).gather(1, own[:, None])[:, 0]
        result = torch.where(kept, KEEPING * (1 - stays), result)
    return result


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
