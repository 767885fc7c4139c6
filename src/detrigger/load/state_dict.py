"""Tensors from a PyTorch state dict, read with `weights_only=True` and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detrigger.errors import ModelError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
"""Keys under which training scripts put the state dict, in order of trial."""


def read(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors, and notes on what was unwrapped. On device "meta" no tensor is read, only its shape.

    Raises ModelError if PyTorch refuses the file, or it holds no state dict.
    """
    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, LookupError) as error:
        raise _refused(path, error) from error
    except (TypeError, AttributeError, AssertionError, OverflowError, MemoryError) as error:
        raise _refused(path, error) from error
    if _is_state(loaded):
        return _tensors(loaded), ()
    inside = loaded if isinstance(loaded, Mapping) else {}
    for key in WRAPPERS:
        if _is_state(inside.get(key)):
            return _tensors(inside[key]), (f"the weights were taken from its entry {key!r}",)
    got = f"a mapping with keys {_some(inside)}" if inside else type(loaded).__name__
    raise ModelError(f"{path} holds {got}, wanted a state dict (names to tensors); save model.state_dict()")


def _refused(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    return ModelError(f"cannot read {path} as a state dict ({reason}); copy or save it again")


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in state.items()}


def _some(keys: Mapping[object, object]) -> str:
    return ", ".join(str(key) for key in list(keys)[:6])
