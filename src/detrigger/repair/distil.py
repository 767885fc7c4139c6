"""Unlearning with distillation: stamped images get their right labels, and clean images keep the original's
answers.

Wang et al. 2019, section VI-C (stamped images with right labels), with the original as the teacher on clean
images (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2), because
fine-tuning on few images alone forgets classes, the target class first. Images are stamped up to three times
over: a synthesised trigger is as weak as one can be, the attacker's is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad

from detrigger import measure
from detrigger.images import Images
from detrigger.model import Classifier, forward
from detrigger.repair import Repaired, point
from detrigger.repair.tuning import Normalising, descended, trainable
from detrigger.trigger import Trigger
from detrigger.trigger import stamped as stamp


@dataclass(frozen=True)
class DistilConfig:
    """How much is stamped, how strongly the original holds, and how long."""

    stamped_share: float = 0.5
    """Stamped images for each clean one in a batch, all triggers together, two of each at least."""
    distillation: float = 2.0
    """Weight of the divergence from the original's answers on clean images; 0 is plain unlearning."""
    few: int = 200
    """With fewer images than this, `distillation` counts `firmer` times and BatchNorm keeps its averages: on
    60 images of CIFAR-10, networks then lose half as much accuracy. With more, more of a backdoor is left."""
    few_per_class: int = 20
    """The same with fewer images of each class than this, on average, if the original errs on a share `errs`
    of them: it learns few images by heart that it got wrong. One that errs less gains by images that it has
    not seen."""
    errs: float = 0.15
    """0 to 1."""
    firmer: float = 3.0
    """1 or more."""
    temperature: float = 2.0
    """Of both answers in the divergence; above 0."""
    shift: int = 2
    """Pixels by which half of the clean images are moved at most, of which the original's answers alone
    count: by them, few images hold a network better; 0 or more."""
    times: int = 3
    """An image is stamped this many times over at most; 1 or more."""
    epochs: int = 10
    """Over the images; 1 or more."""
    steps: int = 200
    """Of gradients at least: with few images, there are more epochs."""
    learning_rate: float = 0.01
    """First rate of SGD with momentum 0.9; it falls to zero as a cosine."""
    batch: int = 32
    """Clean images per step."""


def distil(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: DistilConfig,
    *,
    seed: int,
    start: Repaired | None = None,
) -> Repaired:
    """Unlearn all triggers at once in a copy. `triggers` are stacks of one.

    Goes on from the repair `start`, if that is given; `model` is the teacher all the same. BatchNorm is in
    training mode, unless there are few images.
    """
    generator = torch.Generator().manual_seed(seed)
    least = -(-config.steps // -(-len(images) // config.batch))
    few = _few(model, images, config)
    weight = config.distillation * (config.firmer if few else 1.0)
    config = dataclasses.replace(config, epochs=max(config.epochs, least), distillation=weight)
    net = trainable(start.model if start else model)
    for layer in net.modules():
        if few and isinstance(layer, Normalising):
            layer.eval()
    for _ in _tuned(model, net, images, triggers, targets, config, generator):
        pass
    candidate = dataclasses.replace(model, net=net)
    curve = [point(m, images, triggers, targets, share) for m, share in ((model, 0.0), (candidate, 1.0))]
    name = f"refit-distilled {start.label.removeprefix('refit ')}," if start else "unlearn-distilled"
    label = f"{name} {config.epochs} epochs, rate {config.learning_rate:g}"
    return Repaired(candidate, label, tuple(curve))


def _few(model: Classifier, images: Images, config: DistilConfig) -> bool:
    """Whether the images could teach a network less than they would make it forget."""
    if len(images) < config.few:
        return True
    scarce = len(images) < config.few_per_class * len(images.names)
    return scarce and measure.accuracy(model, images) < 1 - config.errs


def _tuned(
    model: Classifier,
    net: nn.Module,
    fit: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: DistilConfig,
    generator: torch.Generator,
) -> Iterator[nn.Module]:
    """The network, which is changed, after each epoch."""

    def gradients(chosen: Tensor) -> None:
        x, y = fit.x[chosen], fit.y[chosen]
        half = len(x) // 2
        seen = torch.cat([moved(x[:half], config.shift, generator), x[half:]])
        stamped, labels = stamped_rows(x, y, triggers, targets, config, generator)
        with torch.no_grad():
            teacher = model(seen)
        logits = forward(model, net, torch.cat([seen, stamped]))
        right = cross_entropy(logits[half:], torch.cat([y[half:], labels]))
        (right + config.distillation * divergence(logits[: len(x)], teacher, config.temperature)).backward()

    return descended(net, len(fit), gradients, config, generator)


def moved(x: Float[Tensor, "n c h w"], most: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """All images by the same number of pixels, drawn at random; their edges are drawn out."""
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    return pad(x, (most,) * 4, mode="replicate")[:, :, down : down + x.shape[2], right : right + x.shape[3]]


def stamped_rows(
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: DistilConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "m c h w"], Int[Tensor, " m"]]:
    """Some images, drawn anew for each trigger and not of its target, stamped, with their right labels."""
    stamped, labels = [x[:0]], [y[:0]]
    for i, target in enumerate(targets):
        others = (y != target).nonzero()[:, 0]
        count = max(2, round(config.stamped_share * len(x) / len(targets)))
        chosen = others[torch.randperm(len(others), generator=generator)[:count]]
        times = int(torch.randint(1, config.times + 1, (), generator=generator))
        stamped.append(stamp(triggers[i], x[chosen], times))
        labels.append(y[chosen])
    return torch.cat(stamped), torch.cat(labels)


def divergence(
    student: Float[Tensor, "n k"], teacher: Float[Tensor, "n k"], temperature: float
) -> Float[Tensor, ""]:
    """Mean Kullback-Leibler divergence of the softened answers, teacher to student, times temperature squared
    (Hinton et al. 2015: so that its gradients keep their size)."""
    soft, wanted = (log_softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * kl_div(soft, wanted, reduction="batchmean", log_target=True)
