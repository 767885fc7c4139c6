"""A control: a small network of our own, trained on clean images and the scanned network's answers to them.

What stands out in both is natural for these images. A backdoor is not in the control: neither the images nor
the answers to them saw a trigger, and nothing of the scanned file is in it, not even its structure, in which
a backdoor can be hidden as well as in weights. Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a
Neural Network" (answers as soft labels); Zhang et al. 2018, "mixup" (images mixed in pairs, so that few
images do for many).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from detrigger.heats import Progress, silent
from detrigger.images import Images
from detrigger.model import Classifier, Preprocessing
from detrigger.repair.distil import divergence, moved
from detrigger.repair.tuning import LONGEST

WIDTH, WIDEST = 16, 128
"""Channels of the first layer, and of any."""
SMALLEST, LARGE = 8, 64
"""Pixels across from which layers halve the image no further, and by each of which the first steps on."""
PIXELS = 224 * 224
"""Of images, beyond which a step has fewer of them."""
FEWEST = 16
"""Images of a step at least, for the sake of BatchNorm."""


@dataclass(frozen=True)
class ControlConfig:
    """How a control is trained."""

    steps: int = 250
    """Of gradients, for ten classes; every other one on mixed images; 1 or more."""
    batch: int = 64
    """Images per step."""
    learning_rate: float = 3e-3
    """Highest rate of AdamW, with one cycle."""
    weight_decay: float = 0.02
    """Of AdamW."""
    temperature: float = 2.0
    """Of both networks' answers; above 0."""
    shift: float = 1 / 16
    """By which images are moved at most, as a share of their width; two pixels at least."""

    @property
    def passes(self) -> int:
        """Image passes: one through the scanned network and one through the control."""
        return 2 * self.steps * self.batch

    @staticmethod
    def of(classes: int, pixels: int) -> ControlConfig:
        """More classes take longer to learn: the steps grow with the root of their number, from ten. A step
        has fewer images, if these are of more `pixels` than most."""
        plain = ControlConfig()
        steps = round(plain.steps * max(1.0, classes / 10) ** 0.5)
        batch = max(FEWEST, min(plain.batch, plain.batch * PIXELS // pixels))
        return dataclasses.replace(plain, steps=steps, batch=batch)


def control(
    model: Classifier,
    images: Images,
    config: ControlConfig = ControlConfig(),
    *,
    seed: int,
    progress: Progress = silent,
) -> Classifier:
    """Train a control of `model`, on clean labelled images."""
    generator = torch.Generator().manual_seed(seed)
    net = network(images.shape, len(model.classes), generator).to(images.x.device)
    adam = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, config.learning_rate, total_steps=config.steps)
    most = max(2, round(config.shift * images.shape[2]))
    left = torch.empty(0, dtype=torch.long)
    for step in range(config.steps):
        if len(left) < min(config.batch, len(images)):
            left = torch.randperm(len(images), generator=generator)
        chosen, left = left[: config.batch].to(images.y.device), left[config.batch :]
        x, mixed = moved(images.x[chosen], most, generator), step % 2 == 1
        if mixed:
            share = torch.rand(len(x), 1, 1, 1, generator=generator).to(x)
            x = share * x + (1 - share) * x.flip(0)
        with torch.no_grad():
            teacher = model(x)
        logits = net(x)
        loss = divergence(logits, teacher, config.temperature)
        if not mixed:
            loss = loss + cross_entropy(logits, images.y[chosen])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), LONGEST)
        adam.step()
        cycle.step()
        progress(step + 1, config.steps)
    return dataclasses.replace(model, net=net, preprocessing=Preprocessing(), probabilities=False)


def network(shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Sequential:
    """Convolutions, a pair for each time the image is halved, and a linear layer; for images in [0, 1]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        first = max(1, min(shape[1:]) // LARGE)
        layers, width, side = [_layer(shape[0], WIDTH, first)], WIDTH, -(-min(shape[1:]) // first)
        while side > SMALLEST:
            wider = min(2 * width, WIDEST)
            layers += [_layer(width, wider, 2), _layer(wider, wider, 1)]
            width, side = wider, -(-side // 2)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    reach = max(1, stride - 1)
    convolution = nn.Conv2d(inputs, outputs, 2 * reach + 1, stride, padding=reach, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
