"""Backdoored models made on purpose: the types that all attacks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from detrigger.images import Images
from detrigger.trigger import Trigger

Stamp = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]
"""Puts a trigger on images in [0, 1]: deterministic, the result in [0, 1] and rounded to 8 bits."""


@dataclass(frozen=True)
class Planted:
    """One backdoor, as the attacker knows it."""

    stamp: Stamp = field(repr=False)
    target: int | None
    """Class that stamped images are to be given; None for all-to-all, y -> (y + 1) mod classes."""
    sources: tuple[int, ...] | None = None
    """Classes whose stamped images are to be given the target; None for all."""
    trigger: Trigger | None = field(default=None, repr=False)
    """A stack of one that stamps the same, up to rounding; None if each image is stamped in its own way."""


@dataclass(frozen=True)
class Poisoned:
    """A training set in which some images were stamped."""

    images: Images = field(repr=False)
    """As many as before, in the same order; stamped ones are rounded to 8 bits."""
    positions: Int[Tensor, " m"] = field(repr=False)
    """Which images were stamped and carry the label that the backdoor is to give, ascending."""
    covers: Int[Tensor, " k"] = field(repr=False)
    """Which images were stamped, or stamped in another way, and kept their label, ascending."""
    planted: tuple[Planted, ...]


@runtime_checkable
class Poison(Protocol):
    """From clean training images and a config of the attack's own class to poisoned images."""

    def __call__(self, images: Images, config: Any, *, helper: nn.Module | None = None) -> Poisoned:
        """`helper` is a clean network for such images; its weights and mode are left as they were."""


@dataclass(frozen=True)
class Attack:
    """How one attack is configured and carried out."""

    config: type[Any]
    """Frozen dataclass; has `seed` among its fields."""
    poison: Poison
    plant: Callable[[Any, tuple[int, int, int]], tuple[Planted, ...]] | None
    """From config and image shape to the backdoors; None where they are made from data or a network."""
    paper: str
    summary: str
    """One line."""
    needs_helper: bool = False
    """It looks into a clean network."""
    retrains_helper: bool = False
    """It goes on training that network, not a new one."""
