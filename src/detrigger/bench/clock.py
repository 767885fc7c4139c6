"""Time that a network takes for itself, in whatever runs it: forward, and backward to its images."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger import fast
from detrigger.model import Classifier

BATCHES = (8, 16, 32, 64, 128, 256, 512)
"""Tried for the best throughput, until one pass takes LONGEST."""
LONGEST = 2.0
"""Seconds."""
LEAST = 0.15
"""Seconds for which each way is measured."""


@dataclass
class Clock:
    """Seconds of the threads that ran a network."""

    searching: float = 0.0
    """Forward and backward, with gradients."""
    looking: float = 0.0
    """Forward without gradients."""
    images: int = 0
    """Sent forward with gradients."""


@dataclass(frozen=True)
class Way:
    """One way to send images through a network, and how fast it is."""

    batch: int
    precision: str
    layout: str
    throughput: float
    """Images forward and backward per second of CPU."""


@contextmanager
def clocked(net: nn.Module) -> Iterator[Clock]:
    """Measures a network, and copies made of it, while the block runs; its weights must be frozen.

    Backward is the time from when the gradient of the output is there until that of the images is.
    """
    clock, lock, own = Clock(), threading.Lock(), threading.local()

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        own.began = time.thread_time()
        own.images = inputs[0] if torch.is_grad_enabled() and inputs[0].requires_grad else None

    def after(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        took = time.thread_time() - own.began
        with lock:
            if own.images is None:
                clock.looking += took
                return
            clock.searching += took
            clock.images += len(output)
        output.register_hook(backward_begins)
        own.images.register_hook(backward_ends)
        own.images = None

    def backward_begins(_gradient: Tensor) -> None:
        own.backward = time.thread_time()

    def backward_ends(_gradient: Tensor) -> None:
        with lock:
            clock.searching += time.thread_time() - own.backward

    handles = (net.register_forward_pre_hook(before), net.register_forward_hook(after))
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


def ways(model: Classifier, x: Float[Tensor, "n c h w"]) -> tuple[Way, ...]:
    """How fast the folded network is for each batch, precision and memory layout; `x` is repeated as needed.

    Measured on the network alone, without preprocessing, and with the CPU time of this thread.
    """
    net = fast.folded(model).net
    found = []
    for layout, memory in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        net = net.to(memory_format=memory)
        for precision in ("fp32", "bf16"):
            for batch in BATCHES:
                images = x[torch.arange(batch, device=x.device) % len(x)].contiguous(memory_format=memory)
                seconds = _seconds(net, images, bf16=precision == "bf16")
                found.append(Way(batch, precision, layout, batch / seconds))
                if seconds > LONGEST:
                    break
    return tuple(found)


def _seconds(net: nn.Module, x: Tensor, *, bf16: bool) -> float:
    """Of one forward and backward pass, the fastest of several."""
    x = x.detach().requires_grad_()
    took: list[float] = []
    while sum(took) < LEAST or len(took) < 2:
        began = time.thread_time()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            logits = net(x)
        logits.float().sum().backward()
        took.append(time.thread_time() - began)
        if took[-1] > LONGEST:
            break
    return min(took)
