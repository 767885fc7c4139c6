"""The triggers planted in a zoo's models. Copied into the zoo as its `triggers.py`; needs detrigger.

Images are in [0, 1], n x c x h x w; what `apply` returns is rounded to 8 bits, as a stored image would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger.attack import Stamp
from detrigger.attack.methods import ATTACKS
from detrigger.attack.poisoning import stamp_of
from detrigger.bench.plan import specified
from detrigger.load import load_trigger

HERE = Path(__file__).parent


def apply(record: Mapping[str, Any], x: Float[Tensor, "n c h w"], which: int = 0) -> Float[Tensor, "n c h w"]:
    """The images with trigger number `which` of the record on them."""
    entry = record["triggers"][which]
    if entry["file"] is not None:
        return stamp_of(load_trigger(HERE / entry["file"])[0])(x)
    return _made(msgspec.json.encode(record["recipe"]), which, tuple(x.shape[1:]))(x)


def victims(
    record: Mapping[str, Any], y: Int[Tensor, " n"], which: int = 0
) -> tuple[Bool[Tensor, " n"], Int[Tensor, " n"]]:
    """On which images attack success is measured, and the label that counts as success for each."""
    target = record["triggers"][which]["target"]
    if target is None:
        return torch.ones_like(y, dtype=torch.bool), (y + 1) % record["num_classes"]
    chosen = y != target
    if record["sources"] is not None:
        chosen &= torch.isin(y, torch.tensor(record["sources"]))
    return chosen, torch.full_like(y, target)


@lru_cache(maxsize=8)
def _made(recipe: bytes, which: int, shape: tuple[int, int, int]) -> Stamp:
    """A stamp that differs from image to image, from the recipe it was first made by."""
    spec = specified(msgspec.json.decode(recipe), "of the record")
    plant = ATTACKS[spec.attack or ""].plant
    if plant is None:
        raise KeyError(f"triggers of attack {spec.attack!r} cannot be made from the recipe alone")
    return plant(spec.config, shape)[which].stamp
