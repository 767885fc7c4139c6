"""A repair as a small file that can be put on and taken off again, exactly.

What is kept of a changed tensor are the bits in which it differs: before xor after. So one operation does
both, since the bits of either with that difference are the bits of the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from detrigger.errors import ModelError
from detrigger.save import safetensors_bytes, write_atomically

FORMAT = "detrigger patch 1"
"""In the metadata of a patch file, under `format`."""
ALL, AT, BITS = "all:", "at:", "bits:"
"""Put before the name of a tensor: bits of all its values; positions of changed values and their bits."""


@dataclass(frozen=True)
class Patch:
    """How the weights of one model differ from another's."""

    before: str
    """Fingerprint of the weights that it is put on."""
    after: str
    """Fingerprint of the weights that it gives."""
    tensors: Mapping[str, Tensor] = field(repr=False)
    """Of changed tensors alone."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever their order or the file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(_bits(value).numpy().data)
    return digest.hexdigest()


def difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Patch:
    """What turns one model's weights into another's. Raises ModelError if names, types or shapes differ."""
    kinds = [{n: (str(t.dtype), tuple(t.shape)) for n, t in side.items()} for side in (before, after)]
    if kinds[0] != kinds[1]:
        name = next(n for n in {**kinds[0], **kinds[1]} if kinds[0].get(n) != kinds[1].get(n))
        raise ModelError(
            f"no patch fits: {name} is {kinds[0].get(name, 'missing')} in the model file, "
            f"{kinds[1].get(name, 'missing')} in the network; save the whole model with --out alone"
        )
    tensors: dict[str, Tensor] = {}
    for name, old in before.items():
        changed = _bits(old) ^ _bits(after[name])
        at = changed.any(1).nonzero()[:, 0]
        if 3 * len(at) > len(changed):
            tensors[ALL + name] = changed
        elif len(at):
            tensors |= {AT + name: at, BITS + name: changed[at]}
    return Patch(fingerprint(before), fingerprint(after), tensors)


def applied(patch: Patch, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the patch on. Raises ModelError if it was made for others."""
    return _turned(patch, tensors, patch.before, patch.after)


def reverted(patch: Patch, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the patch off again. Raises ModelError if it is not on them."""
    return _turned(patch, tensors, patch.after, patch.before)


def save_patch(patch: Patch, path: Path | str) -> None:
    """Write it as safetensors. Raises OutputError if the path cannot be written."""
    metadata = {"format": FORMAT, "before": patch.before, "after": patch.after}
    write_atomically(path, safetensors_bytes(patch.tensors, metadata))


def load_patch(path: Path | str) -> Patch:
    """Raises ModelError for a file that is missing, damaged or not a patch."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cannot read {path} as a patch ({error}); give what repair --patch wrote"
        ) from error
    if metadata.get("format") != FORMAT or not {"before", "after"} <= metadata.keys():
        raise ModelError(f"{path} is no patch of this version; give what repair --patch wrote")
    return Patch(metadata["before"], metadata["after"], tensors)


def _bits(value: Tensor) -> UInt8[Tensor, "n b"]:
    """The bytes of each value."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).reshape(len(flat), value.element_size())


def _turned(patch: Patch, tensors: Mapping[str, Tensor], given: str, wanted: str) -> dict[str, Tensor]:
    found = fingerprint(tensors)
    if found != given:
        known = {patch.after: "the patch is on these weights already", patch.before: "it is not on them"}
        reason = f"the patch is for weights {given[:12]}..., these are {found[:12]}..."
        raise ModelError(f"{known.get(found, reason)}; nothing was done")
    bits = {name: _bits(value).clone() for name, value in tensors.items()}
    try:
        for key, change in patch.tensors.items():
            kind, name = key.split(":", 1)
            if f"{kind}:" == ALL:
                bits[name] ^= change
            elif f"{kind}:" == BITS:
                bits[name][patch.tensors[AT + name]] ^= change
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise ModelError(f"the patch is damaged ({error!r}); copy it again") from error
    made = {n: b.reshape(-1).view(tensors[n].dtype).reshape(tensors[n].shape) for n, b in bits.items()}
    if fingerprint(made) != wanted:
        raise ModelError("the patch is damaged: it does not give the weights it names; copy it again")
    return made
