"""Warp triggers: a smooth, fixed displacement of the pixels (Nguyen and Tran, WaNet, ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from detrigger.errors import DataError

CONTROL_POINTS = 5
"""Per side of the field that is searched for."""


@dataclass(frozen=True)
class WarpTrigger:
    """k displacement fields on g × g control points, in pixels (x, then y), for images of h × w."""

    fields: Float[Tensor, "k 2 g g"]
    height: int
    width: int

    def __call__(self, x: Float[Tensor, "*k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """Backward warping, bilinear, border pixels repeated."""
        k = len(self)
        n = x.shape[-4]
        grid = self._grid()[:, None].expand(k, n, -1, -1, -1).flatten(0, 1)
        images = x.expand(k, *x.shape[-4:]).flatten(0, 1)
        warped = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return warped.reshape(k, n, *x.shape[-3:]).clamp(0, 1)

    def __getitem__(self, i: int) -> WarpTrigger:
        return WarpTrigger(self.fields[i : i + 1 or None], self.height, self.width)

    def __len__(self) -> int:
        return len(self.fields)

    def _dense(self) -> Float[Tensor, "k 2 h w"]:
        return interpolate(self.fields, (self.height, self.width), mode="bicubic", align_corners=True)

    def _grid(self) -> Float[Tensor, "k h w 2"]:
        """Where each pixel is taken from, in the units of grid_sample."""
        rows = torch.linspace(-1, 1, self.height, device=self.fields.device)
        columns = torch.linspace(-1, 1, self.width, device=self.fields.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        scale = self.fields.new_tensor([2 / max(1, self.width - 1), 2 / max(1, self.height - 1)])
        return torch.stack((x, y), -1) + self._dense().permute(0, 2, 3, 1) * scale

    def size(self) -> Float[Tensor, " k"]:
        """Root mean square displacement, in pixels."""
        return (self._dense().square().sum(1).flatten(1).mean(1) + 1e-12).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """`fields`, and `image` with height and width."""
        return {"fields": self.fields, "image": torch.tensor([self.height, self.width])}

    def picture(self) -> Float[Tensor, "k 1 h w"]:
        """The warp of a chequered image, displaced four times as far so that it can be seen."""
        rows = torch.arange(self.height, device=self.fields.device) // 4
        columns = torch.arange(self.width, device=self.fields.device) // 4
        board = ((rows[:, None] + columns[None]) % 2).float() * 0.6 + 0.2
        return WarpTrigger(4 * self.fields, self.height, self.width)(board[None, None])[:, 0]

    def mask(self) -> Float[Tensor, "k 1 h w"]:
        """Displacement as a share of the largest."""
        length = self._dense().square().sum(1, keepdim=True).sqrt()
        return length / length.amax((2, 3), keepdim=True).clamp_min(1e-6)


@dataclass(frozen=True)
class WarpFamily:
    """Searches displacements directly; every value is valid."""

    learning_rate: float = 0.15

    def init(
        self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Displacements of a fifth of a pixel."""
        side = CONTROL_POINTS
        fields = torch.stack([torch.randn(2, side, side, generator=g) for g in generators])
        return {"field": 0.2 * fields}

    def build(self, parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> WarpTrigger:
        """The fields as they are."""
        return WarpTrigger(parameters["field"], *shape[1:])

    def load(self, tensors: dict[str, Tensor]) -> WarpTrigger:
        """Raises DataError for missing tensors or wrong shapes."""
        if not {"fields", "image"} <= tensors.keys():
            raise DataError("a warp trigger needs tensors fields and image")
        fields, image = tensors["fields"].float(), tensors["image"]
        if fields.ndim != 4 or fields.shape[1] != 2 or image.numel() < 2 or not bool(fields.isfinite().all()):
            raise DataError(f"fields are {tuple(fields.shape)}, wanted k×2×g×g and finite, with image (h, w)")
        height, width = image.flatten()[:2].long().tolist()
        return WarpTrigger(fields, height, width)

    def unit(self) -> str:
        """Of the size."""
        return "pixels of displacement"

    def typical(self, shape: tuple[int, int, int]) -> float:
        """A sixteenth of the height."""
        return shape[1] / 16
