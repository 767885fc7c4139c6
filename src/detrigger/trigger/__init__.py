"""Triggers: one noun for those that were planted, synthesised or loaded, and how to search for each kind."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.trigger import additive, colour, patch, warp, waves


@runtime_checkable
class Trigger(Protocol):
    """A stack of k triggers for images of one shape."""

    def __call__(self, x: Float[Tensor, "*k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """Every trigger stamped on images in [0, 1]: on the same n, or each on its own (k n c h w)."""

    def __getitem__(self, i: int) -> Trigger:
        """The i-th trigger, as a stack of one."""

    def __len__(self) -> int:
        """k"""

    def size(self) -> Float[Tensor, " k"]:
        """How much each changes an image, in the unit of its family."""

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters, by name; `Family.load` takes them back."""

    def picture(self) -> Float[Tensor, "k c h w"]:
        """What each looks like by itself on mid-grey, in [0, 1]."""

    def mask(self) -> Float[Tensor, "k 1 h w"]:
        """How strongly each changes every pixel, in [0, 1]."""


@runtime_checkable
class Family(Protocol):
    """How to search for one kind of trigger. Parameters are free; `build` makes any of them valid."""

    def init(
        self, k: int, shape: tuple[int, int, int], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Starting parameters for k triggers on images of shape (c, h, w), each from its own generator."""

    def build(self, parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> Trigger:
        """For images of shape (c, h, w); differentiable in the parameters."""

    def load(self, tensors: dict[str, Tensor]) -> Trigger:
        """A trigger from what `Trigger.tensors` returned; raises DataError if it is not one."""

    def unit(self) -> str:
        """Of the size, for people."""

    def typical(self, shape: tuple[int, int, int]) -> float:
        """Size that clean models need for images of shape (c, h, w), roughly; the weight starts from it."""

    @property
    def learning_rate(self) -> float:
        """Of Adam on the parameters."""


FAMILIES: dict[str, Family] = {
    "patch": patch.PatchFamily(),
    "additive": additive.AdditiveFamily(),
    "warp": warp.WarpFamily(),
    "colour": colour.ColourFamily(),
    "waves": waves.WavesFamily(),
}


def stamped(trigger: Trigger, x: Float[Tensor, "n c h w"], times: int = 1) -> Float[Tensor, "n c h w"]:
    """Images stamped with a stack of one, so many times over: a soft mask becomes harder, a shift larger."""
    for _ in range(times):
        x = trigger(x)[0]
    return x
