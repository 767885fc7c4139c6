"""How many images a network may work on at once, for a scan to stay within so much memory."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import torch
from torch import Tensor

from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import Classifier

FACTOR = 2.5
"""What a pass takes at its peak, per what it keeps for the gradient: gradients and workspace come on top."""
COPIES = 8
"""Of a patch's parameters, per class: state, best state, triggers of two families, a heat's results, and what
allocators keep of what was freed between them."""
STAMPED = 6
"""Copies of the images of one step: drawn, stamped, their gradients and what lies between."""
SLACK = 0.93
"""Of a limit that is planned with; the rest is what allocators keep for later."""
MOST = 4096
"""Images per pass beyond which no limit is set."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse(text: str) -> int:
    """Bytes, from a text such as 800MB, 1.5G or 2 GiB. Raises UsageError for another."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if not found or not float(found[1]):
        raise UsageError(f"--memory is {text!r}, wanted an amount as in 8GB or 800MB")
    return int(float(found[1]) * _UNITS[found[2]])


def free(device: torch.device) -> int:
    """Bytes that a program may still take on a device; of a container, what its limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    left = int(told[1]) << 10 if told else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    return min(left, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else left


def used(device: torch.device) -> int:
    """Bytes that this program holds on a device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # another system, or no container


def within(
    model: Classifier, images: Images, limit: int, *, classes: int, batch: int, jobs: int
) -> Classifier:
    """The model, told how many images it may take at once for a scan to stay within `limit` bytes in all.

    `classes` are searched, `batch` images at least are stamped in one step, by `jobs` workers at a time. More
    memory makes no other result, but for rounding. Raises UsageError if the limit is too small.
    """
    one = images.x[0].nbytes
    patch = one // images.x.shape[1] * (images.x.shape[1] + 1)
    fixed = used(model.device) + images.x.nbytes + COPIES * classes * patch + jobs * STAMPED * batch * one
    each = int(FACTOR * per_image(model)) + one
    at_once = (int(SLACK * limit) - fixed) // (jobs * each)
    if at_once < 1:
        shape = "×".join(map(str, images.shape))
        raise UsageError(
            f"--memory of {_gb(limit)} is too little: {len(images)} images of {shape} and {classes} classes "
            f"take {_gb(fixed)}, each image in work {_gb(each)}; allow more, or give --per-class, --size or "
            "fewer --jobs"
        )
    return dataclasses.replace(model, at_once=min(at_once, MOST))


def per_image(model: Classifier) -> int:
    """Bytes that a forward pass keeps for the gradient, per image."""
    return max(0, _kept(model, 2) - _kept(model, 1))


def _kept(model: Classifier, count: int) -> int:
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    x = torch.full((count, *model.image_shape), 0.5, device=model.device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model(x).sum()
    return sum(kept.values())


def _gb(size: int) -> str:
    return f"{size / (1 << 30):.2f} GB"
