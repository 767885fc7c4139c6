"""Labelled images, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger.errors import DataError

LEAST = 5
"""Images of a class that are worth drawing: of fewer, hardly any can be held out."""
FEW = 10
"""With fewer images than this, rounding would keep a class out of the smaller parts of a split."""


@dataclass(frozen=True)
class Images:
    """n labelled images in [0, 1] and the names of the classes.

    Raises DataError for values outside [0, 1] or not finite, labels outside the names, or no images.
    """

    x: Float[Tensor, "n c h w"] = field(repr=False)
    y: Int[Tensor, " n"] = field(repr=False)
    names: tuple[str, ...]
    path: str = ""
    """Folder or file they came from."""
    sha256: str = ""
    """Of the pixels and labels."""
    notes: tuple[str, ...] = ()
    """What was left out while they were read, one sentence each."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"{len(self.x)} images but {len(self.y)} labels; each image needs one label")
        if not len(self.x):
            raise DataError("no images; give a small clean set with images of every class")
        low, high = self.x.amin().item(), self.x.amax().item()
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise DataError(
                f"pixels range from {low:.4g} to {high:.4g}, wanted [0, 1]; divide 8-bit images by 255"
            )
        low, high = int(self.y.min()), int(self.y.max())
        if low < 0 or high >= len(self.names):
            raise DataError(f"labels range from {low} to {high}, wanted 0 to {len(self.names) - 1}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        c, h, w = self.x.shape[1:]
        return c, h, w

    def where(self, chosen: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Images:
        """Those chosen by a boolean mask or by positions."""
        return Images(self.x[chosen], self.y[chosen], self.names, self.path, self.sha256, self.notes)

    def to(self, device: torch.device) -> Images:
        """The same on another device."""
        return Images(self.x.to(device), self.y.to(device), self.names, self.path, self.sha256, self.notes)


def split(images: Images, shares: Sequence[float], *, seed: int) -> tuple[Images, ...]:
    """Disjoint parts, stratified by class: of every class each part gets its share, rounded.

    Of classes with fewer images than `FEW` chance says whether a share is rounded up or down, in proportion,
    so that all of these together are in every part by its share. `shares` are positive and sum to at most 1.
    The same seed gives the same parts, and parts that begin with the same shares begin alike.
    Raises DataError if a part would be empty, whatever chance says.
    """
    generator = torch.Generator().manual_seed(seed)
    bounds = torch.tensor([0.0, *shares]).cumsum(0)
    parts: list[list[Tensor]] = [[] for _ in shares]
    labels, counts = images.y.cpu().unique(return_counts=True)
    rounded = (bounds * counts[:, None]).round().diff(dim=1).sum(0)
    few = labels[counts < FEW].tolist()
    # drawn apart from `generator`: other classes are divided alike, whether or not there are small ones
    ranks = torch.randperm(len(few), generator=torch.Generator().manual_seed(seed)).tolist()
    added = {label: (rank + 0.5) / len(few) for label, rank in zip(few, ranks, strict=True)}
    for label in labels.tolist():
        here = (images.y.cpu() == label).nonzero()[:, 0]
        here = here[torch.randperm(len(here), generator=generator)]
        share = bounds * len(here)
        cuts = ((share + added[label]).floor() if label in added else share.round()).long().tolist()
        for part, start, stop in zip(parts, cuts, cuts[1:], strict=False):
            part.append(here[start:stop])
    positions = [torch.cat(part) for part in parts]
    if not all(len(p) for p in positions) or not rounded.all():
        raise DataError(
            f"{len(images)} images are too few for {len(shares)} disjoint parts; give more images"
        )
    return tuple(images.where(p.to(images.x.device)) for p in positions)


def drawn(
    labels: Int[Tensor, " n"], *, per_class: int | None = None, in_all: int | None = None, seed: int
) -> Int[Tensor, " m"]:
    """Positions, ascending, of at most `per_class` images of each class and `in_all` of all, drawn at random.

    To keep to `in_all`, each class gets as many as another; where that would be fewer than `LEAST`, some
    classes get none.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    present = counts.nonzero()[:, 0]
    if in_all is not None and len(labels) > in_all:
        each = max(LEAST, in_all // len(present))
        present = present[torch.randperm(len(present), generator=generator)[: in_all // each]]
        per_class = min(each, per_class or each)
    keep = torch.isin(labels[order], present)
    if per_class is not None:
        keep &= rank < per_class
    return order[keep].sort().values
