"""Evidence from triggers that drive images out of their class: source-specific and all-to-all backdoors.

A few pixels turn a 9 into a 4 in any network, so what counts for one source is how much each pixel of its
trigger does (its effect), and how far the leading target is ahead of all others. One trigger that gives every
class another one, and not all the same, is large in clean networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.evidence import Clean
from detrigger.invert import Inversion
from detrigger.trigger import FAMILIES

EACH, EVERY = "source-specific", "all-to-all"
"""Kinds of evidence: from a trigger for each source, and from one for all of them."""

REACHED = 0.5
"""Share of a source's stamped images that must get one and the same other class."""

NAMED = 3
"""Sources that a reason names."""

DISTINCT = 0.5
"""Targets, as a share of the sources, from which a trigger for all sources means all-to-all."""


@dataclass(frozen=True)
class SourceTerms:
    """How far sources stand out, in spreads of what clean models show."""

    gap: float
    """Weight of how far the effect of the leading target is above that of any other."""
    effect: float
    """Weight of the effect itself."""
    clean: float
    """Mean of their sum over clean models."""
    spread: float
    """Standard deviation of the same; above 0."""
    every_clean: float
    """Mean, over clean models, of the level of the trigger for all sources."""
    every_spread: float
    """Standard deviation of the same; above 0."""


@dataclass(frozen=True)
class SourceFeatures:
    """What the triggers of one source each say."""

    leading: tuple[int, ...]
    """Positions, in the inversion, of the sources that lead to the leading target, largest effect first."""
    gap: float
    effect: float

    def target(self, inversion: Inversion) -> int | None:
        """To which the source with the largest effect is sent, if any source is sent anywhere."""
        return inversion.targets[self.leading[0]] if self.leading else None


def source_features(inversion: Inversion, shape: tuple[int, int, int], clean: Clean) -> SourceFeatures:
    """From an inversion of `escape.from_each`. Sources that left the race early count with what they had."""
    effects = source_effects(inversion, shape, clean)
    order = [i for i in effects.argsort(descending=True).tolist() if inversion.success[i] >= REACHED]
    if not order:
        return SourceFeatures((), 0.0, 0.0)
    first, target = order[0], inversion.targets[order[0]]
    others = [effects[i].item() for i in order[1:] if inversion.targets[i] != target]
    leading = tuple(i for i in order if inversion.targets[i] == target)
    top = effects[first].item()
    return SourceFeatures(leading, top - (others[0] if others else effects[order[-1]].item()), top)


def source_effects(inversion: Inversion, shape: tuple[int, int, int], clean: Clean) -> Float[Tensor, " k"]:
    """Log of how much each trigger raises the margin of its target on images of its source, as a share of
    `Clean.scale`, per typical size of a trigger for all sources.

    A rise of less than a thousandth of the scale counts as that.
    """
    assert inversion.margin is not None
    rise = inversion.margin.double() - clean.margins[list(inversion.sources), list(inversion.targets)]
    size = inversion.size.double() / FAMILIES[inversion.family].typical(shape)
    return ((rise / clean.scale).clamp_min(1e-3) / size).log()


def every_level(inversion: Inversion, shape: tuple[int, int, int]) -> float:
    """Log of how far the trigger for all sources lies below the typical size of one for a single target."""
    return -(inversion.size[0].double() / FAMILIES[inversion.family].typical(shape)).log().item()


def each_surprise(
    found: SourceFeatures, inversion: Inversion, targets: tuple[int, ...], terms: SourceTerms
) -> Float[Tensor, " k"]:
    """How far each class stands out as the target of a source-specific backdoor, in spreads of clean models;
    -inf for all but the leading one."""
    far = (terms.gap * found.gap + terms.effect * found.effect - terms.clean) / terms.spread
    leading = found.target(inversion)
    return torch.tensor([far if t == leading else -torch.inf for t in targets], dtype=torch.float64)


def every_surprise(
    inversion: Inversion, shape: tuple[int, int, int], targets: tuple[int, ...], terms: SourceTerms
) -> Float[Tensor, " k"]:
    """How far each class stands out as one of the targets of an all-to-all backdoor, in spreads of clean
    models; -inf for one that no source is sent to."""
    far = (every_level(inversion, shape) - terms.every_clean) / terms.every_spread
    reached = every_targets(inversion)
    return torch.tensor([far if t in reached else -torch.inf for t in targets], dtype=torch.float64)


def every_targets(inversion: Inversion) -> set[int]:
    """Classes that the trigger for all sources sends them to; none if those are fewer than half as many."""
    moved = zip(inversion.targets, inversion.success.tolist(), strict=True)
    reached = {t for t, rate in moved if rate >= REACHED}
    return reached if len(reached) >= DISTINCT * len(inversion.sources) else set()


def each_reason(sources: SourceFeatures, inversion: Inversion, names: tuple[str, ...]) -> str:
    """For people: which sources lead to the leading target, and how little it takes."""
    named = [
        f"{names[inversion.sources[i]]!r} to {names[inversion.targets[i]]!r} ({inversion.size[i]:.1f})"
        for i in sources.leading[:NAMED]
    ]
    unit = FAMILIES[inversion.family].unit()
    return f"triggers for one source class alone do much in few {unit}: {', '.join(named)}"


def every_reason(inversion: Inversion, names: tuple[str, ...]) -> str:
    """For people: how many classes the trigger for all sources moves, and where to."""
    moved = list(zip(inversion.sources, inversion.targets, inversion.success.tolist(), strict=True))
    named = [f"{names[s]!r} to {names[t]!r}" for s, t, rate in moved if rate >= REACHED]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    size = f"{inversion.size[0]:.1f} {FAMILIES[inversion.family].unit()}"
    return (
        f"one trigger of {size} moves {len(named)} of {len(moved)} classes: {', '.join(named[:NAMED])}{more}"
    )
