"""The one training loop: clean and backdoored models are made by the same code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.model import Classifier

Progress = Callable[[int, int, float], None]
"""Called after each epoch with epochs done, epochs in all, and the epoch's mean loss."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    epochs: int = 5
    """Passes over the images; from 1."""
    batch: int = 128
    """Images per step; from 2, as batch norm needs more than one. A smaller last batch is left out."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Kingma and Ba 2015, or with decoupled weight decay, Loshchilov and Hutter 2019."""
    rate: float = 0.005
    """Highest learning rate; above 0."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """Rate up for 30 % of the steps, then down to nearly 0 (Smith and Topin 2019), or down from the start."""
    weight_decay: float = 0.01
    """Share of the weights taken off per unit of rate (AdamW), or L2 penalty (Adam); from 0."""
    shift: int = 0
    """Augmentation: images move by up to this many pixels each way, black comes in; from 0."""
    flip: bool = False
    """Augmentation: every second image, at random, is mirrored left to right."""
    margin: float = 0.0
    """Taken off the logit of an image's own class while training, so that classes stand further apart (after
    Wang et al., CosFace, CVPR 2018); from 0."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of the computation; weights and their updates are fp32 all the same. `auto` is bf16 where the processor
    has instructions for it, else fp32: without them a network for faces took nine times as long in bf16."""
    seed: int = 0
    """Of the order of images, the augmentation and dropout."""


def train(
    net: nn.Module, images: Images, config: TrainConfig, *, progress: Progress | None = None
) -> nn.Module:
    """A trained deep copy of `net`, in eval mode, on the device of its weights; `net` is left as it was.

    Images go in as they are, in [0, 1]: a network that wants them normalised does it inside.
    The same net, images and config give the same weights on the same machine.
    Raises UsageError for a config out of range, ModelError if the network does not fit images and classes.
    """
    _check(config, len(images))
    trained = copy.deepcopy(net).train().requires_grad_(True)
    probe = Classifier(net, images.names, images.shape)
    device = probe.device
    probe(images.x[:1].to(device))  # one clear line now, if they do not fit
    x, y = images.x.to(device), images.y.to(device)
    steps = len(x) // min(config.batch, len(x))
    optimizer, schedule = _optimizer(trained, config, config.epochs * steps)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        for epoch in range(config.epochs):
            loss = _epoch(trained, x, y, config, optimizer, schedule)
            if progress:
                progress(epoch + 1, config.epochs, loss)
    return trained.eval()


def _check(config: TrainConfig, images: int) -> None:
    if config.epochs < 1 or config.batch < 2 or config.shift < 0:
        raise UsageError(
            f"epochs {config.epochs}, batch {config.batch}, shift {config.shift}; wanted at least 1, 2 and 0"
        )
    if not config.margin >= 0:
        raise UsageError(f"margin {config.margin:g}; wanted at least 0")
    if not config.rate > 0 or not config.weight_decay >= 0:
        raise UsageError(
            f"rate {config.rate:g}, weight_decay {config.weight_decay:g}; wanted above 0 and at least 0"
        )


def _optimizer(
    net: nn.Module, config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(net.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    if config.schedule == "cosine":
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, config.rate, total_steps=steps)


def _epoch(
    net: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    batch = min(config.batch, len(x))
    lower = config.precision == "bf16" or (config.precision == "auto" and computes_bf16(x.device))
    order = torch.randperm(len(x)).to(x.device)[: len(x) // batch * batch]
    total = 0.0
    for chosen in order.split(batch):
        shown = augmented(x[chosen], config)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=lower):
            logits = net(shown)
        away = config.margin * functional.one_hot(y[chosen], logits.shape[1])
        loss = functional.cross_entropy(logits.float() - away, y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * batch
    return total / len(order)


def computes_bf16(device: torch.device) -> bool:
    """Whether a graphics card or an x86 processor has instructions for bf16; without them it is emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def augmented(x: Float[Tensor, "n c h w"], config: TrainConfig) -> Float[Tensor, "n c h w"]:
    """Images moved and mirrored at random, each by its own draw from torch's global generator."""
    if config.shift:
        x = _shifted(x, config.shift)
    if config.flip:
        chosen = (torch.rand(len(x)) < 0.5).to(x.device)[:, None, None, None]
        x = torch.where(chosen, x.flip(3), x)
    return x


def _shifted(x: Float[Tensor, "n c h w"], most: int) -> Float[Tensor, "n c h w"]:
    n, _, h, w = x.shape
    dy, dx = torch.randint(0, 2 * most + 1, (2, n, 1))
    rows = (dy + torch.arange(h)).to(x.device)[:, :, None]
    columns = (dx + torch.arange(w)).to(x.device)[:, None, :]
    padded = functional.pad(x, (most, most, most, most))
    picked = padded[torch.arange(n, device=x.device)[:, None, None], :, rows, columns]
    return picked.permute(0, 3, 1, 2)
