"""TrojanNN: a patch is optimised to fire chosen neurons of a finished model, which is then trained on.

Liu et al., "Trojaning attack on neural networks", NDSS 2018, section IV. The neurons are those before
the last layer with the largest sum of absolute weights out of them; the training images stand for the paper's
reverse-engineered ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from detrigger.attack import Poisoned
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import add_poison, ordinary, share, stored, untouched
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import INPUT, Classifier, penultimate, pooled, recorded
from detrigger.trigger.patch import PatchTrigger


@dataclass(frozen=True)
class TrojanNNConfig:
    """Where the patch is, which neurons it fires, on how many images."""

    target: int
    """Class that stamped images are labelled as; 0 to classes - 1."""
    patch: Patch = field(default=Patch(height=6, width=6, pattern="noise"))
    """Where the patch is, and what the optimisation begins with."""
    neurons: int = 2
    """How many are to fire; from 1. Default: BackdoorBench."""
    value: float = 100.0
    """What they are to reach; above 0. Default: BackdoorBench."""
    steps: int = 200
    """Of optimisation (Adam, rate 0.05, before the sigmoid); from 1."""
    samples: int = 64
    """Clean images the patch is optimised on; from 1."""
    poison_rate: float = 0.1
    """Share of all training images that is stamped and relabelled; above 0, to 1."""
    seed: int = 0
    """Of the choice of images."""


def poison(images: Images, config: TrojanNNConfig, *, helper: nn.Module | None = None) -> Poisoned:
    """`poison_rate` of all images, drawn from the other classes, get the patch and the target's label.

    Raises UsageError without a helper or for options out of range, ModelError if the helper does not fit.
    """
    if helper is None or min(config.neurons, config.steps, config.samples) < 1 or not config.value > 0:
        given = "none" if helper is None else "one"
        raise UsageError(
            f"neurons {config.neurons}, steps {config.steps}, samples {config.samples}, value "
            f"{config.value:g}, clean model: {given}; wanted at least 1, 1, 1, above 0, and one"
        )
    model = Classifier(helper, images.names, images.shape)
    (planted,) = ordinary(_optimised(model, images, config), config.target)
    return add_poison(untouched(images), planted, share(config.poison_rate, images), config.seed)


def chosen_neurons(model: Classifier, count: int) -> tuple[str, Tensor]:
    """The layer before the last and, of its neurons, those with the most weight out of them."""
    layer = penultimate(model)
    weight = model.net.get_submodule(layer.removesuffix(INPUT)).get_parameter("weight")
    total = weight.abs().transpose(0, 1).flatten(1).sum(1)
    return layer, total.topk(min(count, len(total))).indices


def _optimised(model: Classifier, images: Images, config: TrojanNNConfig) -> PatchTrigger:
    start = painted(config.patch, images.shape)
    layer, neurons = chosen_neurons(model, config.neurons)
    generator = torch.Generator().manual_seed(config.seed)
    picked = torch.randperm(len(images), generator=generator)[: config.samples].to(images.x.device)
    x, masks = images.x[picked].to(model.device), start.masks.to(model.device)
    free = torch.logit(start.patterns.to(model.device), eps=0.02).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(config.steps):
        with recorded(model.net, layer) as seen:
            model(PatchTrigger(masks, free.sigmoid())(x)[0])
        fired = pooled(seen[-1], channels_last=False)[:, neurons]
        optimizer.zero_grad()
        (config.value - fired).square().mean().backward()
        optimizer.step()
    pattern = stored(free.detach().sigmoid().cpu()) * (start.masks > 0)
    return PatchTrigger(start.masks, pattern)
