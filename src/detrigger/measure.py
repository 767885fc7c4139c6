"""The field's figures, in one place: accuracy, recall, attack success rate (ASR)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import Trigger

BATCH = 256
"""Images of up to 128 × 128 pixels per forward pass where no gradient is needed; fewer if they are larger."""


@dataclass(frozen=True)
class CurvePoint:
    """One stop on the way of a repair."""

    share: float
    """Of the neurons pruned, or of the epochs done, in [0, 1]."""
    accuracy: float
    success: float
    """Highest attack success rate of the synthesised triggers."""


@dataclass(frozen=True)
class Stamped:
    """What a model makes of images that a backdoor is aimed at; all are shares of these images."""

    images: int
    success: float
    """Given the class that the backdoor is to give, when stamped (ASR)."""
    robust: float
    """Given their own label, when stamped (robust accuracy)."""
    without: float
    """Given the backdoor's class as they are, without the trigger."""


def batches(x: Float[Tensor, "n c h w"]) -> tuple[Tensor, ...]:
    """The images in parts that fit into memory."""
    parts: tuple[Tensor, ...] = x.split(max(1, min(BATCH, BATCH * 128 * 128 // (x.shape[2] * x.shape[3]))))
    return parts


def logits(
    model: Classifier, x: Float[Tensor, "n c h w"], trigger: Trigger | None = None
) -> Float[Tensor, "n classes"]:
    """Of each image, stamped with a stack of one if that is given."""
    with torch.no_grad():
        return torch.cat([model(trigger(part)[0] if trigger else part) for part in batches(x)])


def predictions(model: Classifier, x: Float[Tensor, "n c h w"]) -> Int[Tensor, " n"]:
    """Predicted class of each image."""
    return logits(model, x).argmax(1)


def margins(logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The target's logit less the highest other one, for each image: above 0 where it is predicted."""
    own = logits.gather(1, targets[:, None])
    return (own - logits.scatter(1, targets[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def accuracy(model: Classifier, images: Images) -> float:
    """Share of images given their own label (clean accuracy on clean images)."""
    return (predictions(model, images.x) == images.y).float().mean().item()


def recalls(
    predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, " classes"]:
    """Per class, share of its images given its label; NaN for a class without images."""
    right = torch.zeros(classes).index_add_(0, labels.cpu(), (predicted == labels).float().cpu())
    return right / torch.bincount(labels.cpu(), minlength=classes)


def hits(model: Classifier, images: Images, trigger: Trigger, target: int) -> Bool[Tensor, " m"]:
    """For each image not of the target class: is it given the target when stamped with a stack of one?"""
    others = images.x[images.y != target]
    return torch.cat([predictions(model, trigger(part)[0]) == target for part in batches(others)])


def success(model: Classifier, images: Images, trigger: Trigger, target: int) -> float:
    """Attack success rate: share of images not of the target class that are given it when stamped."""
    return hits(model, images, trigger, target).float().mean().item()


def stamped(
    model: Classifier,
    images: Images,
    stamp: Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]],
    wanted: Int[Tensor, " n"],
) -> Stamped:
    """How often a stamp gives images the classes wanted; `images` are those that the backdoor is aimed at."""
    found = torch.cat([predictions(model, stamp(part)) for part in batches(images.x)])
    plain = predictions(model, images.x)
    success, robust, without = (
        (a == b).float().mean().item() for a, b in ((found, wanted), (found, images.y), (plain, wanted))
    )
    return Stamped(len(images), success, robust, without)


def defence_effectiveness(
    accuracy_before: float, accuracy_after: float, success_before: float, success_after: float
) -> float:
    """[max(0, fall of ASR) - max(0, fall of accuracy) + 1] / 2: 1 is best, 0.5 is what doing nothing gets.

    DER of Zhu et al., "Enhancing fine-tuning based backdoor defense with sharpness-aware minimization", 2023.
    """
    gain = max(0.0, success_before - success_after)
    return (gain - max(0.0, accuracy_before - accuracy_after) + 1) / 2


def recall_drops(
    before: Int[Tensor, " n"], after: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, " classes"]:
    """Per class, recall of the predictions before minus after; NaN for a class without images."""
    return recalls(before, labels, classes) - recalls(after, labels, classes)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval for a rate seen `successes` times in `trials` trials (Wilson 1927); from 1 trial."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, weight = successes / trials, z * z / trials
    middle = (rate + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (rate * (1 - rate) + weight / 4)) / (1 + weight)
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == trials else middle + half


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval that holds the rate at least so often, whatever it is (Clopper and Pearson 1934)."""
    one_sided = (1 + confidence) / 2
    low = 1 - upper_bound(trials - successes, trials, one_sided)
    return low, upper_bound(successes, trials, one_sided)


def upper_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound on a rate seen `successes` times in `trials` trials.

    The rate p at which P(X <= successes) falls to 1 - confidence for X binomial (Clopper and Pearson 1934).
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    counts = torch.arange(successes + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    choose = torch.lgamma(n + 1) - torch.lgamma(counts + 1) - torch.lgamma(n - counts + 1)
    for _ in range(60):
        p = torch.tensor((low + high) / 2, dtype=torch.float64)
        below = (choose + counts * p.log() + (n - counts) * (1 - p).log()).logsumexp(0).exp().item()
        low, high = (p.item(), high) if below > 1 - confidence else (low, p.item())
    return high


def loss_bound(lost: int, gained: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided upper bound on the fall of a rate, from paired trials that were judged before and after.

    Of the trials, `lost` were right before and wrong after, `gained` the other way round: their bounds are
    those of Clopper and Pearson (1934), with 3/4 and 1/4 of the error allowed, so it holds for any sample.
    """
    error = 1 - confidence
    most = upper_bound(lost, trials, 1 - 0.75 * error)
    return most - (1 - upper_bound(trials - gained, trials, 1 - 0.25 * error))


def order_of_classes(
    predicted: Int[Tensor, " n"], y: Int[Tensor, " n"], classes: int
) -> tuple[tuple[int, ...], float]:
    """The output that the images of each class mostly get, and the accuracy if that is the right one.

    Nothing and 0, unless each class has images and an output of its own.
    """
    table = torch.zeros(classes, classes, dtype=torch.long)
    table.index_put_((y.cpu(), predicted.cpu()), torch.ones(len(y), dtype=torch.long), accumulate=True)
    counts, mostly = table.max(1)
    if len(mostly.unique()) < classes or not bool(counts.all()):
        return (), 0.0
    return tuple(mostly.tolist()), counts.sum().item() / len(y)
