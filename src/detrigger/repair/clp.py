"""Channel Lipschitz pruning (CLP): channels that can amplify their input far more than others in their layer
are silenced. No image and no trigger is needed.

Zheng, Tang, Li and Liu 2022, "Data-Free Backdoor Removal Based on Channel Lipschitzness", eq. 5 and 6: the
bound of a channel is the largest singular value of its kernel, times what the BatchNorm after it scales by.
Which BatchNorm follows which convolution is seen in one pass, not guessed from the order of the modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.errors import UsageError
from detrigger.fast import convolutions_with_norms
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.repair import Repaired, point
from detrigger.repair.silencing import silenced
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class ClpConfig:
    """How far above the others is too far."""

    threshold: float = 3.0
    """Standard deviations above the mean of its layer at which a channel goes; above 0 (Zheng et al. 2022:
    3)."""


def clp(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: ClpConfig,
) -> Repaired:
    """Silence in every layer the channels whose bound stands out.

    Images and triggers, which may be missing, only make the curve. Raises UsageError if no convolution feeds
    a BatchNorm with weights.
    """
    pairs = convolution_norm_pairs(model)
    if not pairs:
        raise UsageError(
            "channel Lipschitz pruning needs convolutions that feed a BatchNorm, and this network has none; "
            "use another repair"
        )
    candidate, gone, total = model, 0, 0
    for conv, norm in pairs:
        bounds = channel_bounds(model, conv, norm)
        outliers = (bounds > bounds.mean() + config.threshold * bounds.std()).nonzero()[:, 0]
        candidate = silenced(candidate, norm, outliers)
        gone, total = gone + len(outliers), total + len(bounds)
    curve = tuple(
        point(m, images, triggers, targets, share) for m, share in ((model, 0.0), (candidate, gone / total))
    )
    return Repaired(candidate, f"clp threshold {config.threshold:g}, {gone} of {total} channels", curve)


def convolution_norm_pairs(model: Classifier) -> list[tuple[str, str]]:
    """Names of convolutions and of the BatchNorms, with weights of their own, that they alone feed."""
    return [
        (conv, norm)
        for conv, norm in convolutions_with_norms(model)
        if isinstance(model.net.get_submodule(norm).weight, Tensor)
    ]


def channel_bounds(model: Classifier, conv: str, norm: str) -> Float[Tensor, " channels"]:
    """Per channel, the largest singular value of its kernel (inputs x positions) times |gamma| / std."""
    convolution, scaling = model.net.get_submodule(conv), model.net.get_submodule(norm)
    assert isinstance(convolution, nn.Conv2d) and isinstance(scaling, nn.BatchNorm2d)
    assert isinstance(scaling.running_var, Tensor)
    kernels = convolution.weight.flatten(2)
    largest: Tensor = torch.linalg.matrix_norm(kernels, ord=2)
    return largest * scaling.weight.abs() / (scaling.running_var + scaling.eps).sqrt()
