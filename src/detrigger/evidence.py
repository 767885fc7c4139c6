"""What the sizes of synthesised triggers say about each class: features, and how far they stand out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger.invert import Inversion
from detrigger.model import Classifier
from detrigger.outliers import gaps, outlier_index
from detrigger.trigger import FAMILIES


@dataclass(frozen=True)
class Terms:
    """How far a class stands out by one kind of trigger, in spreads of what clean models show."""

    index: float
    """Weight of the outlier index of log size, of which at most `INDEX_CAP` counts."""
    gap: float
    """Weight of the log gap to the next larger class."""
    level: float
    """Weight of the log of how far the size lies below the typical size of the family."""
    margin: float
    """Weight of how near clean images of other classes are to the class (`clean_margins`)."""
    clean: float
    """Mean, over clean models, of the highest weighted sum of any class."""
    spread: float
    """Standard deviation of the same; above 0."""


INDEX_CAP = 8.0
"""An outlier index above this says no more than this."""
MARGIN_FLOOR, MARGIN_RANGE = 0.05, (-2.0, 4.0)
"""Least spread of clean margins, as a share of their median; and beyond what they say no more."""


@dataclass(frozen=True)
class Features:
    """What the sizes of one family's triggers say about each of k classes."""

    inversion: Inversion
    inverted: Bool[Tensor, " k"]
    index: Float[Tensor, " k"]
    gap: Float[Tensor, " k"]
    level: Float[Tensor, " k"]


def features(
    inversion: Inversion, shape: tuple[int, int, int], *, success: float, log: bool, floor: float
) -> Features:
    """Index and gap compare classes as if all had been searched to the end.

    A class is inverted from this `success` on held-out images; `log` and `floor` are those of the index.
    """
    inverted = inversion.success >= success
    size = comparable(inversion, inverted)
    return Features(
        inversion,
        inverted,
        outlier_index(size, log=log, floor=floor),
        gaps(size),
        -(inversion.size.double() / FAMILIES[inversion.family].typical(shape)).log(),
    )


def comparable(inversion: Inversion, inverted: Bool[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Sizes as if no class had left the race.

    A class that left it is taken to shrink, from its size after the first heat, as the median finalist did,
    but not below the median finalist; one that had no trigger by then counts as the largest of the others.
    Finalists that could not be inverted count as the largest size seen.
    """
    finalist = inversion.heats == inversion.heats.amax()
    size = inversion.size.double()
    early = size if inversion.early is None else inversion.early.double()
    sure = finalist & inverted
    if not bool(sure.any()):
        return torch.full_like(size, size.amax().item())
    seen = sure & early.isfinite()
    shrink = (size[seen].log() - early[seen].log()).quantile(0.5).exp() if bool(seen.any()) else 1.0
    guess = (early * shrink).clamp_min(size[sure].quantile(0.5))
    result = torch.where(sure, size, torch.where(finalist, size.amax(), guess))
    return result.clamp_max(result[result.isfinite()].amax())


@dataclass(frozen=True)
class Clean:
    """What a model makes of clean images, against which triggers are judged."""

    margins: Float[Tensor, "classes classes"]
    """[source, target]: mean, over images of the source, of the target's logit less the highest other one;
    NaN without such images."""
    right: Bool[Tensor, " n"]
    """Which images are given their own class."""

    def margin(self) -> Float[Tensor, " classes"]:
        """Per target, the mean over all sources but itself."""
        others = self.margins.clone()
        others.fill_diagonal_(torch.nan)
        return others.nanmean(0)

    def near(self) -> Float[Tensor, " classes"]:
        """How near clean images of other classes are to each class: a backdoor pulls all of them to its
        target a little, even without the trigger.

        `margin`, less the median of the classes, over their spread (1.4826 MAD, at least `MARGIN_FLOOR` of
        the median), within `MARGIN_RANGE`.
        """
        far = -outlier_index(self.margin(), log=False, floor=MARGIN_FLOOR)
        return far.nan_to_num(0.0).clamp(*MARGIN_RANGE)  # NaN: all margins are 0


@dataclass(frozen=True)
class Natural:
    """What a control shows (`detrigger.control`), which is natural for these images."""

    inversions: Mapping[str, Inversion]
    """By kind; of the same targets as those of the scanned model, or of some of its pairs."""
    clean: Clean
    network: Classifier | None = field(default=None, repr=False)
    """The control, with which later scans can be compared."""


@dataclass(frozen=True)
class NaturalTerms:
    """How what is natural counts."""

    weight: float
    """Of how far the control's class stands out, which is taken off what the scanned model's does."""
    intercept: float
    """Of the log-odds of a backdoor in what is left."""
    slope: float
    """Per spread that is left."""


LARGEST = 32
"""Pixels across, of images on which it was fitted what follows if a control shows nothing. Of larger ones it
seldom shows what is natural, so nothing follows."""

FURTHEST = 8.0
"""Standing out further than this says no more; in a control, further than twice this."""

HELD = ("patch", "additive", "warp", "waves")
"""Families that a control is searched for. Colour filters are not: what they do by nature in the scanned
network, they seldom do in its control, so that nothing follows if they do not."""


def clean_answers(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Clean:
    """From the logits of clean images and their labels."""
    logits, labels = logits.double().cpu(), labels.cpu()
    classes = logits.shape[1]
    first, second = logits.topk(2, dim=1).values.T
    rival = torch.where(logits == first[:, None], second[:, None], first[:, None])
    sums = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, labels, logits - rival)
    return Clean(sums / labels.bincount(minlength=classes)[:, None], logits.argmax(1) == labels)


def surprise(found: Features, margins: Float[Tensor, " k"], terms: Terms) -> Float[Tensor, " k"]:
    """How far each class stands out, in spreads of clean models; -inf for one that could not be inverted."""
    weighted = (
        terms.index * found.index.clamp_max(INDEX_CAP)
        + terms.gap * found.gap
        + terms.level * found.level
        + terms.margin * margins
    )
    return torch.where(found.inverted, (weighted - terms.clean) / terms.spread, -torch.inf)
