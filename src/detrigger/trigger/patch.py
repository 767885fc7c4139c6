"""Patch triggers: some pixels of the image are replaced.

Eq. (4) of Menisov (2022), after Wang et al., "Neural Cleanse", IEEE S&P 2019:
x*_ijc = (1 - m_ij) x_ijc + m_ij T_ijc, with a mask m that all channels share and a pattern T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.errors import DataError


@dataclass(frozen=True)
class PatchTrigger:
    """k masks in [0, 1] and k patterns in [0, 1]."""

    masks: Float[Tensor, "k 1 h w"]
    patterns: Float[Tensor, "k c h w"]

    def __call__(self, x: Float[Tensor, "*k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """Eq. (4), for every trigger on the same n images or for each on its own."""
        m, p = self.masks[:, None], self.patterns[:, None]
        return (1 - m) * x + m * p

    def __getitem__(self, i: int) -> PatchTrigger:
        return PatchTrigger(self.masks[i : i + 1 or None], self.patterns[i : i + 1 or None])

    def __len__(self) -> int:
        return len(self.masks)

    def size(self) -> Float[Tensor, " k"]:
        """Sum of the mask (its L1 norm), in pixels."""
        return self.masks.flatten(1).sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """`masks` and `patterns`."""
        return {"masks": self.masks, "patterns": self.patterns}

    def picture(self) -> Float[Tensor, "k c h w"]:
        """Pattern where the mask is, mid-grey elsewhere."""
        return (1 - self.masks) * 0.5 + self.masks * self.patterns

    def mask(self) -> Float[Tensor, "k 1 h w"]:
        """The masks."""
        return self.masks


@dataclass(frozen=True)
class PatchFamily:
    """Searches in the space of logits of mask and pattern, so every value is valid."""

    learning_rate: float = 0.3

    def init(
        self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """A faint mask everywhere (so that every pixel has a gradient) and a grey, slightly noisy pattern."""
        c, h, w = shape
        noise = torch.stack([torch.randn(c + 1, h, w, generator=g) for g in generators])
        return {"mask": noise[:, :1] * 0.1 - 2.0, "pattern": noise[:, 1:] * 0.1}

    def build(self, parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> PatchTrigger:
        """Sigmoid of both."""
        return PatchTrigger(parameters["mask"].sigmoid(), parameters["pattern"].sigmoid())

    def load(self, tensors: dict[str, Tensor]) -> PatchTrigger:
        """Raises DataError for missing tensors, shapes that do not fit, or values outside [0, 1]."""
        try:
            masks, patterns = tensors["masks"].float(), tensors["patterns"].float()
        except KeyError as missing:
            raise DataError(
                f"a patch trigger needs tensors masks and patterns, {missing} is missing"
            ) from missing
        fits = masks.ndim == patterns.ndim == 4 and masks.shape[1] == 1
        if not fits or masks.shape[::2] != patterns.shape[::2] or masks.shape[3] != patterns.shape[3]:
            raise DataError(
                f"masks {tuple(masks.shape)} and patterns {tuple(patterns.shape)} do not fit; "
                "wanted k×1×h×w and k×c×h×w"
            )
        for name, value in {"masks": masks, "patterns": patterns}.items():
            if not bool(((value >= 0) & (value <= 1)).all()):
                raise DataError(f"{name} of a patch trigger must lie in [0, 1]")
        return PatchTrigger(masks, patterns)

    def unit(self) -> str:
        """Of the size."""
        return "pixels"

    def typical(self, shape: tuple[int, int, int]) -> float:
        """6 % of the pixels up to 32 × 32; beyond, natural triggers grow with the side, not the area."""
        side = min(shape[1:])
        return 0.06 * shape[1] * shape[2] * min(1.0, 32 / side)
