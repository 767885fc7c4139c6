"""Label-consistent: a patch on images of the target class that were made hard to recognise.

So it is learned although no label is wrong.
Turner, Tsipras and Madry, "Label-consistent backdoor attacks", 2019, section 4.2: projected gradient
descent on a clean model (Madry et al. 2018), within eps of each value.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detrigger.attack import Planted, Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_poison, ordinary, share, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import Classifier


@dataclass(frozen=True)
class LabelConsistentConfig:
    """What is stamped, how hard images are made, how many."""

    target: int
    """Class whose images are stamped, and that stamped images are to be given; 0 to classes - 1."""
    patch: Patch = field(default=Patch())
    """What is stamped."""
    eps: float = 0.2
    """Largest change of a value before stamping, on the [0, 1] scale; above 0, to 1."""
    steps: int = 20
    """Of gradient descent; from 1."""
    poison_rate: float = 0.05
    """Share of all training images, drawn from the target class, that is stamped; above 0, to 1."""
    seed: int = 0
    """Of the choice of images."""


def plant(config: LabelConsistentConfig, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoor; raises UsageError for a patch that cannot be."""
    return ordinary(painted(config.patch, shape), config.target)


def poison(images: Images, config: LabelConsistentConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, of the target class, are disturbed until `helper` errs, and stamped.

    Raises UsageError without a helper or for options out of range, ModelError if the helper does not fit.
    """
    if helper is None or not 0 < config.eps <= 1 or config.steps < 1:
        given = "none" if helper is None else "one"
        raise UsageError(
            f"eps {config.eps:g}, steps {config.steps}, clean model: {given}; wanted above 0 to 1, 1, and one"
        )
    (planted,) = plant(config, images.shape)
    model = Classifier(helper, images.names, images.shape)

    def hard(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        parts = x.split(256)
        return planted.stamp(torch.cat([_disturbed(model, part, config) for part in parts]))

    count = share(config.poison_rate, images)
    return add_poison(untouched(images), planted, count, config.seed, stamp=hard, clean_label=True)


def _disturbed(
    model: Classifier, x: Float[Tensor, "n c h w"], config: LabelConsistentConfig
) -> Float[Tensor, "n c h w"]:
    """Images of the target class moved up the loss, in steps of 2.5 eps / steps (Madry et al. 2018)."""
    device = model.device
    start = x.to(device)
    moved = start
    y = torch.full((len(x),), config.target, device=device)
    for _ in range(config.steps):
        here = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(model(here), y), here)
        stepped = moved + 2.5 * config.eps / config.steps * gradient.sign()
        moved = torch.clamp(stepped, start - config.eps, start + config.eps).clamp(0, 1)
    return moved.detach().to(x.device)
