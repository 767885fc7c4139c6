"""Predictions that no patch up to a given size can change, whatever is on it and wherever it is.

Xiang, Mahloujifar and Mittal 2022, "PatchCleanser: Certifiably Robust Defense against Adversarial Patches for
Any Image Classifier", algorithms 1 and 2: the network is asked about the image under every mask of a set of
which one always covers the patch, and, where those answers differ, under pairs of masks. This is a wrapper
around a network, not a repair: it protects only those who ask through it, and the network stays as it is. It
does not matter where a patch's power comes from; a backdoor is one source.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger import measure
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import Classifier


@dataclass(frozen=True)
class CertifyConfig:
    """Against which patches, and with how many masks."""

    patch_size: int
    """Side in pixels of the largest patch to withstand; any rectangle that fits into such a square; 1 or
    more."""
    masks: int = 6
    """Per side: more are smaller, so more images are certified, at a cost that grows with the fourth power;
    1 or more (Xiang et al. 2022: 6)."""


@dataclass(frozen=True)
class Cover:
    """Masks of which, for every place of a patch, one covers it."""

    kept: Bool[Tensor, "k 1 h w"] = field(repr=False)
    """True where a mask leaves the image as it is."""
    size: tuple[int, int]
    """Height and width of one mask in pixels."""


@dataclass(frozen=True)
class Certification:
    """What the wrapper does on labelled clean images; shares of these images."""

    images: int
    patch_size: int
    mask_size: tuple[int, int]
    """Height and width in pixels."""
    masks: int
    """In the cover; a prediction takes as many forward passes, and as many again per mask that disagrees."""
    fill: tuple[float, ...]
    """What is put where a mask is, per channel; the mean of these images. A wrapper in use needs the same."""
    accuracy: float
    """Of the network by itself."""
    defended_accuracy: float
    """Of the network through the wrapper."""
    certified: float
    """Right, and proven to stay so under any patch of this size."""
    passes: int
    """Images sent through the network for all of this."""


def certify(model: Classifier, images: Images, config: CertifyConfig) -> Certification:
    """Accuracy under double masking, and for how many images it is proven.

    Raises UsageError for a patch that is larger than the image or numbers below 1.
    """
    masks = cover(images.shape, config)
    fill = images.x.mean((0, 2, 3))
    given, asked = defended(model, images.x, masks, fill)
    proven, proving = certified(model, images, masks, fill)
    return Certification(
        images=len(images),
        patch_size=config.patch_size,
        mask_size=masks.size,
        masks=len(masks.kept),
        fill=tuple(fill.tolist()),
        accuracy=measure.accuracy(model, images),
        defended_accuracy=(given == images.y).float().mean().item(),
        certified=proven.float().mean().item(),
        passes=asked + proving + len(images),
    )


def cover(shape: tuple[int, int, int], config: CertifyConfig) -> Cover:
    """The masks for images of a shape: a stride s apart, s - 1 longer than the patch, the last at the edge.

    Section 3.2 there. Raises UsageError as `certify` does.
    """
    _, height, width = shape
    if not 1 <= config.patch_size <= min(height, width):
        raise UsageError(
            f"--patch-size is {config.patch_size}, wanted 1 to {min(height, width)}, the images' shorter side"
        )
    if config.masks < 1:
        raise UsageError(f"--masks is {config.masks}, wanted 1 or more")
    rows, tall = _intervals(height, config)
    columns, wide = _intervals(width, config)
    covered = rows[:, None, :, None] & columns[None, :, None, :]
    return Cover(~covered.reshape(-1, 1, height, width), (tall, wide))


def _intervals(length: int, config: CertifyConfig) -> tuple[Bool[Tensor, "k n"], int]:
    """Along one side: which pixels each mask covers, and how long it is."""
    stride = -(-(length - config.patch_size + 1) // config.masks)
    long = config.patch_size + stride - 1
    last = length - long
    starts = torch.tensor(sorted({*range(0, last, stride), last}))[:, None]
    pixels = torch.arange(length)
    return (pixels >= starts) & (pixels < starts + long), long


def defended(
    model: Classifier, x: Float[Tensor, "n c h w"], masks: Cover, fill: Float[Tensor, " c"]
) -> tuple[Int[Tensor, " n"], int]:
    """The wrapper's predictions (algorithm 1), and how many forward passes they took.

    If all masks agree, their answer. Else, for each mask that disagrees with the majority: its answer, if no
    second mask changes it. Else the majority's.
    """
    first = _under(model, x, masks, fill)
    majority = first.mode(1).values
    given, passes = majority.clone(), first.numel()
    for number, kept in enumerate(masks.kept):
        own = first[:, number]
        open_ = ((own != majority) & (given == majority)).nonzero()[:, 0]  # no earlier mask has settled it
        if len(open_):
            second = _under(model, _masked(x[open_], kept, fill), masks, fill)
            passes += second.numel()
            settled = open_[(second == own[open_][:, None]).all(1)]
            given[settled] = own[settled]
    return given, passes


def certified(
    model: Classifier, images: Images, masks: Cover, fill: Float[Tensor, " c"]
) -> tuple[Bool[Tensor, " n"], int]:
    """For which images every pair of masks gives the right label (algorithm 2), and the forward passes.

    Then the wrapper gives it under any patch that the cover is for (theorem 1).
    """
    standing = torch.arange(len(images), device=images.x.device)
    passes = 0
    for number, kept in enumerate(masks.kept):
        pairs = Cover(masks.kept[number:], masks.size)  # the earlier ones have had this one as their second
        once = _masked(images.x[standing], kept, fill)
        answers = _under(model, once, pairs, fill)
        passes += answers.numel()
        standing = standing[(answers == images.y[standing][:, None]).all(1)]
        if not len(standing):
            break
    proven = torch.zeros(len(images), dtype=torch.bool, device=images.x.device)
    proven[standing] = True
    return proven, passes


def _under(model: Classifier, x: Tensor, masks: Cover, fill: Tensor) -> Int[Tensor, "n k"]:
    """Predictions of every image under every mask."""
    answers = [measure.predictions(model, _masked(x, kept, fill)) for kept in masks.kept]
    return torch.stack(answers, 1)


def _masked(x: Tensor, kept: Tensor, fill: Tensor) -> Tensor:
    return torch.where(kept.to(x.device), x, fill.to(x)[:, None, None])
