"""Tensors from a weights file of any kind. Nothing that a file holds is ever run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from detrigger.errors import ModelError
from detrigger.files.inspect import contents
from detrigger.files.judge import WouldRun
from detrigger.files.sniff import sniff
from detrigger.load import safetensors_file, state_dict

_PREFIXES = ("module.", "_orig_mod.")
"""Put before every name by DataParallel and by torch.compile."""
_CHECKPOINTS = ("state-dict", "legacy-state-dict", "torchscript", "pt2")
_SHOWN = 4


@dataclass(frozen=True)
class Weights:
    """Tensors of a model file."""

    tensors: dict[str, Tensor]
    format: str
    """`safetensors`, `state-dict`, `legacy-state-dict`, `torchscript` or `pt2`."""
    notes: tuple[str, ...] = ()
    """What was unwrapped or renamed, and what the file would run in other hands; one sentence each."""
    within: tuple[str, ...] = ()
    """Keys of the checkpoint that led to the tensors."""
    prefix: str = ""
    """What was taken off all names."""


def read_tensors(path: Path | str) -> Weights:
    """The tensors of a safetensors file, of a PyTorch checkpoint, module, or of a program, on the CPU.

    Pickles in it are read as text. Raises ModelError if one of them would do harm, and for files that are
    damaged, hold no weights or are of another format.
    """
    path = Path(path)
    kind = sniff(path)
    if kind.name == "safetensors":
        found = Weights(safetensors_file.read(path), kind.name)
    else:
        held = contents(path, kind)
        harm = tuple(run for run in held.would_run if run.severity == "high")
        if kind.name not in _CHECKPOINTS:
            doing = f" that would {_doing(harm)}" if harm else ""
            raise ModelError(f"{path} is {kind.description}{doing}; {kind.advice}")
        if harm:
            raise ModelError(
                f"{path} would {_doing(harm)} when opened with ordinary tools, so it is not used; get the "
                "weights from a source you trust, as safetensors"
            )
        if wrong := [finding for finding in held.findings if finding.severity == "high"]:
            raise ModelError(
                f"{path} is not used: {wrong[0].sentence}; save the weights again, as safetensors"
            )
        tensors, checkpoint = state_dict.read(path, kind.name)
        described, foreign = checkpoint.described, [run for run in held.would_run if run.severity == "medium"]
        notes = (f"its pickle would {_doing(tuple(foreign))}, which was not done",) if foreign else ()
        found = Weights(tensors, kind.name, (*described.notes, *notes), described.within)
    if not found.tensors:
        raise ModelError(f"{path} holds no tensors; give the file with the weights")
    return _without_prefixes(found)


def _without_prefixes(found: Weights) -> Weights:
    tensors, taken = found.tensors, ""
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        taken += prefix
    notes = (*found.notes, f"{taken!r} was taken off the names of its tensors") if taken else found.notes
    return Weights(tensors, found.format, notes, found.within, taken)


def _doing(runs: tuple[WouldRun, ...]) -> str:
    told = list(dict.fromkeys(f"{run.how} {run.name}" for run in runs))
    return ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
