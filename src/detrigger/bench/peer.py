"""Another detector, asked about one of our models, and what its answer took.

An adapter is a Python file with a function `peer(checkout)` that imports the other project, from its checkout
if it is not installed, and returns a function of a network in eval mode, images in [0, 1], their labels and
the number of classes. That function returns a mapping with the fields of `Answer`.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from detrigger.errors import ModelError, UsageError
from detrigger.images import Images
from detrigger.model import Classifier

Ask = Callable[[nn.Module, Tensor, Tensor, int], Mapping[str, object]]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector says of a model."""

    statistic: tuple[float | None, ...]
    """One per class, in the detector's own unit; None where it has none."""
    verdict: Literal["clean", "backdoored", "inconclusive"]
    targets: tuple[int, ...]
    """Classes named, the most suspicious first."""
    score: float
    """Higher is more suspicious; only its order counts."""
    rule: str
    """How the verdict was made, in a sentence."""


@dataclass
class Passes:
    """Images sent through a network; counted while `counted` is open."""

    searching: int = 0
    """With gradients."""
    looking: int = 0
    """Without."""


@dataclass(frozen=True)
class Asked:
    """An answer and what it took."""

    answer: Answer
    searching: int
    """Images sent through the network with gradients enabled."""
    looking: int
    """Images sent through it without."""
    cpu_seconds: float
    """Of the search; reading of files and imports are not in it."""
    seconds: float


class Plain(nn.Module):
    """A classifier as other projects hold one: a module of images in [0, 1], its weights not frozen."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        net = copy.deepcopy(model.net).to(memory_format=torch.contiguous_format)
        self.net: nn.Module = net.requires_grad_(True)
        self.probabilities = model.probabilities
        for name, values in {"mean": model.preprocessing.mean, "std": model.preprocessing.std}.items():
            self.register_buffer(name, torch.tensor(values, device=model.device).reshape(1, -1, 1, 1))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.net((x - self.mean) / self.std)
        return out.clamp_min(1e-12).log() if self.probabilities else out


def adapter(path: Path, checkout: str = "") -> Ask:
    """The function of an adapter file, which is run: it is trusted by naming it.

    Raises UsageError if the file, or what it needs, is not there.
    """
    spec = importlib.util.spec_from_file_location(f"detrigger_peer_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"no adapter {path}; give a Python file with a function peer(checkout)")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # as for any script, so that adapters can share files beside them
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        ask: Ask = module.peer(checkout)
    except (ImportError, AttributeError, OSError) as error:
        raise UsageError(
            f"adapter {path} cannot start ({error}); does it need a checkout or a package?"
        ) from error
    return ask


def asked(ask: Ask, model: Classifier, images: Images, *, seed: int = 0) -> Asked:
    """What a detector says of a model, given these images; the model is copied, so it cannot be changed.

    Sets the random numbers of Python, NumPy and torch, as other projects draw from all three.
    Raises ModelError for an answer that is none.
    """
    net = Plain(model)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    began, cpu_began = time.perf_counter(), time.process_time()
    with counted(net) as passes:
        told = ask(net, images.x.clone(), images.y.clone(), len(model.classes))
    cpu, seconds = time.process_time() - cpu_began, time.perf_counter() - began
    try:
        answer = msgspec.convert(dict(told), Answer)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ModelError(f"the adapter's answer is not as agreed ({error}); see {__name__}.Answer") from error
    if len(answer.statistic) != len(model.classes) or math.isnan(answer.score):
        raise ModelError(
            f"the adapter gave {len(answer.statistic)} figures for {len(model.classes)} classes and the "
            f"score {answer.score}; wanted one each and a number"
        )
    return Asked(answer, passes.searching, passes.looking, cpu, seconds)


@contextmanager
def counted(net: nn.Module) -> Iterator[Passes]:
    """Counts images that go through a network, and through copies made of it, while the block runs."""
    passes = Passes()

    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            passes.searching += len(inputs[0])
        else:
            passes.looking += len(inputs[0])

    handle = net.register_forward_pre_hook(hook)
    try:
        yield passes
    finally:
        handle.remove()
