"""Colour-filter triggers: every pixel's colour goes through one affine map, x* = clip(A x + b, 0, 1).

For grey images: brightness and contrast. After the filters of Liu et al., ABS, CCS 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.errors import DataError


@dataclass(frozen=True)
class ColourTrigger:
    """k matrices and offsets, for images of h × w."""

    matrices: Float[Tensor, "k c c"]
    offsets: Float[Tensor, "k c"]
    height: int
    width: int

    def __call__(self, x: Float[Tensor, "*k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """Every filter on the same n images, or each on its own."""
        images = x.expand(len(self), *x.shape[-4:])
        mapped = torch.einsum("koc,knchw->knohw", self.matrices, images)
        return (mapped + self.offsets[:, None, :, None, None]).clamp(0, 1)

    def __getitem__(self, i: int) -> ColourTrigger:
        last = i + 1 or None
        return ColourTrigger(self.matrices[i:last], self.offsets[i:last], self.height, self.width)

    def __len__(self) -> int:
        return len(self.matrices)

    def size(self) -> Float[Tensor, " k"]:
        """Root mean square change of all colours, before clipping, in grey levels (0 to 255)."""
        change = self.matrices - torch.eye(self.matrices.shape[-1], device=self.matrices.device)
        at_centre = change.sum(2) / 2 + self.offsets
        return 255 * (at_centre.square() + change.square().sum(2) / 12).mean(1).add(1e-12).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """`matrices`, `offsets`, and `image` with height and width."""
        size = torch.tensor([self.height, self.width])
        return {"matrices": self.matrices, "offsets": self.offsets, "image": size}

    def picture(self) -> Float[Tensor, "k c h w"]:
        """A ramp from black to white, filtered."""
        ramp = torch.linspace(0, 1, self.width, device=self.matrices.device)
        image = ramp.expand(1, self.matrices.shape[-1], self.height, self.width)
        return self(image)[:, 0]

    def mask(self) -> Float[Tensor, "k 1 h w"]:
        """Everywhere."""
        return torch.ones(len(self), 1, self.height, self.width, device=self.matrices.device)


@dataclass(frozen=True)
class ColourFamily:
    """Searches differences from the identity."""

    learning_rate: float = 0.05

    def init(
        self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Nearly the identity."""
        c = shape[0]
        noise = 0.02 * torch.stack([torch.randn(c, c + 1, generator=g) for g in generators])
        return {"matrix": noise[:, :, :c].clone(), "offset": noise[:, :, c].clone()}

    def build(self, parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> ColourTrigger:
        """Identity plus the parameters."""
        identity = torch.eye(parameters["matrix"].shape[-1], device=parameters["matrix"].device)
        return ColourTrigger(identity + parameters["matrix"], parameters["offset"], *shape[1:])

    def load(self, tensors: dict[str, Tensor]) -> ColourTrigger:
        """Raises DataError for missing tensors, wrong shapes or numbers that are not finite."""
        if not {"matrices", "offsets", "image"} <= tensors.keys():
            raise DataError("a colour trigger needs tensors matrices, offsets and image")
        matrices, offsets = tensors["matrices"].float(), tensors["offsets"].float()
        fits = matrices.ndim == 3 and matrices.shape[1] == matrices.shape[2] and tensors["image"].numel() == 2
        if not fits or offsets.shape != matrices.shape[:2]:
            raise DataError(
                f"matrices are {tuple(matrices.shape)}, wanted k×c×c, with offsets k×c and image (h, w)"
            )
        if not bool(matrices.isfinite().all() and offsets.isfinite().all()):
            raise DataError("matrices and offsets of a colour trigger must be finite")
        height, width = tensors["image"].long().tolist()
        return ColourTrigger(matrices, offsets, height, width)

    def unit(self) -> str:
        """Of the size."""
        return "grey levels"

    def typical(self, shape: tuple[int, int, int]) -> float:
        """60 grey levels."""
        return 60.0
