"""Wave triggers: few cosines, the same for all channels, are added to the image: x* = clip(x + d, 0, 1).

For sinusoids (Barni, Kallas and Tondi, ICIP 2019). Faint noise that sends images to a class of a clean
network is smaller than a sinusoid as a whole, but takes many waves: so amplitudes are summed, not squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.errors import DataError

WAVES = 16
"""Cosines per side at most, in half waves from none up: 7.5 whole waves."""


@dataclass(frozen=True)
class WaveTrigger:
    """k sums of two-dimensional cosines (DCT-II) for images of c × h × w, by root mean square of each."""

    amplitudes: Float[Tensor, "k f g"]
    """In [0, 1] grey levels; the (a, b)-th has a half waves down and b across the image."""
    shape: tuple[int, int, int]

    def changes(self) -> Float[Tensor, "k 1 h w"]:
        """What is added to every channel."""
        down, across = (
            _cosines(length, count).to(self.amplitudes)
            for length, count in zip(self.shape[1:], self.amplitudes.shape[1:], strict=True)
        )
        return torch.einsum("kab,ah,bw->khw", self.amplitudes, down, across)[:, None]

    def __call__(self, x: Float[Tensor, "*k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """Every change on the same n images, or each on its own."""
        return (x + self.changes()[:, None]).clamp(0, 1)

    def __getitem__(self, i: int) -> WaveTrigger:
        return WaveTrigger(self.amplitudes[i : i + 1 or None], self.shape)

    def __len__(self) -> int:
        return len(self.amplitudes)

    def size(self) -> Float[Tensor, " k"]:
        """Sum of the amplitudes, in 8-bit grey levels (0 to 255)."""
        return 255 * self.amplitudes.abs().flatten(1).sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """`amplitudes`, and `image` with channels, height and width."""
        return {"amplitudes": self.amplitudes, "image": torch.tensor(self.shape)}

    def picture(self) -> Float[Tensor, "k c h w"]:
        """The change on mid-grey."""
        return (0.5 + self.changes()).clamp(0, 1).expand(-1, self.shape[0], -1, -1)

    def mask(self) -> Float[Tensor, "k 1 h w"]:
        """The size of the change, 1 at most."""
        return self.changes().abs().clamp_max(1)


def _cosines(length: int, count: int) -> Float[Tensor, "count length"]:
    """Each with root mean square 1."""
    places = (torch.arange(length) + 0.5) / length
    waves = torch.cos(math.pi * torch.arange(count)[:, None] * places)
    return waves / waves.square().mean(1, keepdim=True).sqrt()


@dataclass(frozen=True)
class WavesFamily:
    """Searches signed square roots of the amplitudes, by which most of them vanish."""

    learning_rate: float = 0.02

    def init(
        self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """A little of every wave."""
        counts = [min(WAVES, length // 2) for length in shape[1:]]
        return {"root": 0.03 * torch.stack([torch.randn(*counts, generator=g) for g in generators])}

    def build(self, parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> WaveTrigger:
        """Signed squares."""
        root = parameters["root"]
        return WaveTrigger(root * root.abs(), shape)

    def load(self, tensors: dict[str, Tensor]) -> WaveTrigger:
        """Raises DataError for missing tensors, wrong shapes or numbers that are not finite."""
        if not {"amplitudes", "image"} <= tensors.keys():
            raise DataError("a wave trigger needs tensors amplitudes and image")
        amplitudes, image = tensors["amplitudes"].float(), tensors["image"]
        if amplitudes.ndim != 3 or image.numel() != 3 or not bool(amplitudes.isfinite().all()):
            raise DataError(
                f"amplitudes are {tuple(amplitudes.shape)}, wanted k×f×g and finite, with image (c, h, w)"
            )
        channels, height, width = image.flatten().long().tolist()
        return WaveTrigger(amplitudes, (channels, height, width))

    def unit(self) -> str:
        """Of the size."""
        return "grey levels"

    def typical(self, shape: tuple[int, int, int]) -> float:
        """80 grey levels."""
        return 80.0
