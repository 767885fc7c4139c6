"""Is a synthesised trigger the attacker's? Three measures (Menisov 2022, "Identification")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from detrigger.errors import DataError, UsageError
from detrigger.images import Images
from detrigger.measure import batches, success
from detrigger.model import Classifier
from detrigger.model import layers as all_layers
from detrigger.trigger import Trigger

TOP = 100
"""One in so many of a layer's neurons is among those that matter most (top 1 %, Wang et al. 2019)."""


@dataclass(frozen=True)
class NeuronMatch:
    """Similarity of what two triggers do to the neurons of one layer."""

    layer: str
    cosine: float
    """Of the two mean activation shifts (stamped minus clean), in [-1, 1]."""
    top_overlap: float
    """Share of the neurons most raised by the known trigger (top 1 %, at least one) that are also
    among those most raised by the found one, in [0, 1]."""
    top_neurons: int
    """How many neurons the top 1 % is."""
    activation_clean: float
    """Mean activation of the known trigger's top neurons on clean images."""
    activation_known: float
    """The same under the known trigger."""
    activation_found: float
    """The same under the found trigger."""


@dataclass(frozen=True)
class Match:
    """A found trigger beside a known one."""

    target: int
    success_found: float
    """Attack success rate of the found trigger, in [0, 1]."""
    success_known: float
    """Attack success rate of the known trigger, in [0, 1]."""
    size_found: float
    size_known: float
    mask_overlap: float
    """Intersection over union of the masks (sum of minima over sum of maxima), in [0, 1]."""
    centre_distance: float
    """Between the masks' centres of mass, in pixels."""
    colour_difference: float
    """Mean absolute difference of the patterns where both masks are, in [0, 1]; NaN if nowhere."""
    structural_similarity: float
    """Mean SSIM of the two triggers' pictures, in [-1, 1]."""
    neurons: tuple[NeuronMatch, ...]
    """One per layer, the penultimate first."""


def compare(
    model: Classifier,
    images: Images,
    found: Trigger,
    known: Trigger,
    target: int,
    layers: tuple[str, ...] = (),
) -> Match:
    """Effectiveness, look and neurons of two triggers (stacks of one), on images not of the target class.

    `layers`: where to look at neurons; by default the penultimate one, the last one inside and the one
    midway. Raises UsageError for a target or layer that is not there, DataError for triggers that do not
    fit the images or images of the target class alone.
    """
    if not 0 <= target < len(model.classes):
        raise UsageError(f"target class {target}; wanted 0 to {len(model.classes) - 1}")
    for name, trigger in (("found", found), ("known", known)):
        _check(name, trigger, images.shape)
    if bool((images.y == target).all()):
        raise DataError(f"all images are of the target class {target}; give images of other classes")
    others = images.where(images.y != target)
    picture_found, picture_known = found.picture()[0], known.picture()[0]
    return Match(
        target=target,
        success_found=success(model, others, found, target),
        success_known=success(model, others, known, target),
        size_found=found.size().item(),
        size_known=known.size().item(),
        mask_overlap=mask_overlap(found.mask()[0, 0], known.mask()[0, 0]),
        centre_distance=(centre(found.mask()[0, 0]) - centre(known.mask()[0, 0])).norm().item(),
        colour_difference=colour_difference(found, known),
        structural_similarity=structural_similarity(picture_found, picture_known),
        neurons=tuple(
            neuron_match(model, others.x, found, known, layer) for layer in layers or looked_into(model)
        ),
    )


def looked_into(model: Classifier) -> tuple[str, ...]:
    """The penultimate neurons, the last layer inside and the one midway, as far as there are such."""
    *inner, penultimate = all_layers(model)
    last, rest = inner[-1:], inner[:-1]
    return (penultimate, *last, *rest[len(rest) // 2 :][:1])


def mask_overlap(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Intersection over union of soft masks, in [0, 1]; NaN if both are empty."""
    return (torch.minimum(a, b).sum() / torch.maximum(a, b).sum()).item()


def centre(mask: Float[Tensor, "h w"]) -> Float[Tensor, "2"]:
    """Centre of mass (y, x), in pixels from the centre of the upper left one; NaN if it is empty."""
    rows = torch.arange(mask.shape[0], device=mask.device, dtype=mask.dtype)
    columns = torch.arange(mask.shape[1], device=mask.device, dtype=mask.dtype)
    return torch.stack([mask.sum(1) @ rows, mask.sum(0) @ columns]) / mask.sum()


def colour_difference(found: Trigger, known: Trigger) -> float:
    """Mean absolute difference of the patterns, weighted by the smaller mask, in [0, 1]; NaN if nowhere.

    A family without patterns is compared by its picture.
    """
    a, b = (t.tensors().get("patterns", t.picture())[0] for t in (found, known))
    weights = torch.minimum(found.mask()[0, 0], known.mask()[0, 0])
    return (((a - b).abs().mean(0) * weights).sum() / weights.sum()).item()


def structural_similarity(a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"]) -> float:
    """Mean SSIM of two pictures in [0, 1] over channels and places where the window fits, in [-1, 1].

    Wang et al., "Image quality assessment", IEEE TIP 2004, eq. (13): Gaussian window of 11×11 with sigma
    1.5, K1 = 0.01, K2 = 0.03. For smaller pictures the window is the largest odd one that fits.
    """
    side = min(11, *a.shape[1:])
    side -= 1 - side % 2
    ticks = torch.arange(side, device=a.device, dtype=a.dtype) - side // 2
    bell = (-(ticks**2) / (2 * 1.5**2)).exp()
    window = (bell[:, None] * bell / bell.sum() ** 2)[None, None]

    def local_mean(x: Tensor) -> Tensor:
        return functional.conv2d(x[:, None], window)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return (above / below).mean().item()


def neuron_match(
    model: Classifier, x: Float[Tensor, "n c h w"], found: Trigger, known: Trigger, layer: str
) -> NeuronMatch:
    """What two triggers do to a layer's mean activations on the same images.

    The top neurons and their three means are those of Wang et al., "Neural Cleanse", IEEE S&P 2019,
    section on the similarity of neuron activations.
    """
    clean = _mean_activation(model, x, layer, None)
    with_found = _mean_activation(model, x, layer, found)
    with_known = _mean_activation(model, x, layer, known)
    count = math.ceil(len(clean) / TOP)
    top = (with_known - clean).topk(count).indices
    top_found = (with_found - clean).topk(count).indices
    cosine = functional.cosine_similarity(with_found - clean, with_known - clean, dim=0)
    return NeuronMatch(
        layer=layer,
        cosine=cosine.clamp(-1, 1).item(),
        top_overlap=torch.isin(top, top_found).float().mean().item(),
        top_neurons=count,
        activation_clean=clean[top].mean().item(),
        activation_known=with_known[top].mean().item(),
        activation_found=with_found[top].mean().item(),
    )


def _mean_activation(
    model: Classifier, x: Float[Tensor, "n c h w"], layer: str, trigger: Trigger | None
) -> Float[Tensor, " d"]:
    sums = [
        model.activations(part if trigger is None else trigger(part)[0], layer).sum(0) for part in batches(x)
    ]
    return torch.stack(sums).sum(0) / len(x)


def _check(name: str, trigger: Trigger, shape: tuple[int, int, int]) -> None:
    picture, mask = tuple(trigger.picture().shape), tuple(trigger.mask().shape)
    c, h, w = shape
    if picture != (1, c, h, w) or mask != (1, 1, h, w):
        got, wanted = ("×".join(map(str, s)) for s in (picture, (1, c, h, w)))
        raise DataError(
            f"the {name} trigger is {got}, wanted {wanted}: one trigger, for images of this shape; "
            "take one of a stack with trigger[i], or a trigger made for this model"
        )
