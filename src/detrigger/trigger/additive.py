"""Additive triggers: a faint pattern is added to the whole image, x* = clip(x + d, 0, 1).

Covers sinusoids (Barni et al. 2019), low-frequency and universal perturbations, and, nearly, blended images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.errors import DataError


@dataclass(frozen=True)
class AdditiveTrigger:
    """k changes in [-1, 1]."""

    changes: Float[Tensor, "k c h w"]

    def __call__(self, x: Float[Tensor, "*k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """Every change on the same n images, or each on its own."""
        return (x + self.changes[:, None]).clamp(0, 1)

    def __getitem__(self, i: int) -> AdditiveTrigger:
        return AdditiveTrigger(self.changes[i : i + 1 or None])

    def __len__(self) -> int:
        return len(self.changes)

    def size(self) -> Float[Tensor, " k"]:
        """Root mean square of the change, in 8-bit grey levels (0 to 255)."""
        return 255 * (self.changes.flatten(1).square().mean(1) + 1e-12).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """`changes`."""
        return {"changes": self.changes}

    def picture(self) -> Float[Tensor, "k c h w"]:
        """The change on mid-grey."""
        return (0.5 + self.changes).clamp(0, 1)

    def mask(self) -> Float[Tensor, "k 1 h w"]:
        """The largest change of any channel."""
        return self.changes.abs().amax(1, keepdim=True)


@dataclass(frozen=True)
class AdditiveFamily:
    """Searches in the space before tanh."""

    learning_rate: float = 0.02

    def init(
        self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Faint noise."""
        return {"change": 0.02 * torch.stack([torch.randn(*shape, generator=g) for g in generators])}

    def build(self, parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> AdditiveTrigger:
        """Hyperbolic tangent."""
        return AdditiveTrigger(parameters["change"].tanh())

    def load(self, tensors: dict[str, Tensor]) -> AdditiveTrigger:
        """Raises DataError for a missing tensor, a wrong shape, or values outside [-1, 1]."""
        if "changes" not in tensors:
            raise DataError("an additive trigger needs a tensor changes, which is missing")
        changes = tensors["changes"].float()
        if changes.ndim != 4:
            raise DataError(f"changes are {tuple(changes.shape)}, wanted k×c×h×w")
        if not bool((changes.abs() <= 1).all()):
            raise DataError("changes of an additive trigger must lie in [-1, 1]")
        return AdditiveTrigger(changes)

    def unit(self) -> str:
        """Of the size."""
        return "grey levels"

    def typical(self, shape: tuple[int, int, int]) -> float:
        """30 grey levels up to 32 × 32; in larger images many pixels share the work."""
        return 30.0 * math.sqrt(min(1.0, 32 / min(shape[1:])))
