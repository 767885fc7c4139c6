"""What each suspect trigger does to a few images, before the eyes of the reader."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report import pictures
from detrigger.scan import Backdoor

EXAMPLES = 6
"""Images per trigger."""
TRIGGERS = 20
"""Triggers shown at most."""


@dataclass(frozen=True)
class Answer:
    """What a model says about an image."""

    index: int
    probability: float


@dataclass(frozen=True)
class Example:
    """An image and the same image stamped."""

    label: int
    clean: str
    """As a data: address."""
    stamped: str
    """As a data: address."""
    clean_answer: Answer
    stamped_answer: Answer
    repaired_answer: Answer | None
    """Of the repaired model, on the stamped image."""


@dataclass(frozen=True)
class Shown:
    """A trigger with its pictures."""

    backdoor: Backdoor
    strongest: float
    """Highest value of the mask, in [0, 1]."""
    mask: str
    """As a data: address."""
    pattern: str
    """As a data: address."""
    examples: tuple[Example, ...]


def show(backdoor: Backdoor, images: Images, model: Classifier, repaired: Classifier | None) -> Shown:
    """Its pictures, and what the models say about a few images with and without it."""
    mask = backdoor.trigger.mask()[0]
    return Shown(
        backdoor=backdoor,
        strongest=mask.amax().item(),
        mask=_address(pictures.mask_png(backdoor.trigger)),
        pattern=_address(pictures.trigger_png(backdoor.trigger)),
        examples=_examples(backdoor, images, model, repaired),
    )


def _examples(
    backdoor: Backdoor, images: Images, model: Classifier, repaired: Classifier | None
) -> tuple[Example, ...]:
    chosen = _choose(images, backdoor)
    if not chosen:
        return ()
    clean = images.x[chosen]
    # a trigger may have been loaded on another device than the model is on
    stamped = backdoor.trigger(clean.to(backdoor.trigger.mask().device))[0].detach()
    columns = zip(
        chosen,
        clean,
        stamped,
        _answers(model, clean),
        _answers(model, stamped),
        _answers(repaired, stamped) if repaired else [None] * len(chosen),
        strict=True,
    )
    return tuple(
        Example(
            label=int(images.y[position]),
            clean=_address(pictures.png(before)),
            stamped=_address(pictures.png(after)),
            clean_answer=said,
            stamped_answer=said_then,
            repaired_answer=said_later,
        )
        for position, before, after, said, said_then, said_later in columns
    )


def _choose(images: Images, backdoor: Backdoor) -> list[int]:
    """Positions of images of as many source classes as there is room for, without looking at the outcome."""
    labels: list[int] = images.y.tolist()
    by_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        if label != backdoor.target and (backdoor.sources == "all" or label in backdoor.sources):
            by_class.setdefault(label, []).append(position)
    classes = sorted(by_class)
    if len(classes) > EXAMPLES:
        classes = [classes[i * len(classes) // EXAMPLES] for i in range(EXAMPLES)]
    deepest = max((len(v) for v in by_class.values()), default=0)
    in_turn = [by_class[c][turn] for turn in range(deepest) for c in classes if turn < len(by_class[c])]
    return sorted(in_turn[:EXAMPLES], key=lambda position: labels[position])


def _answers(model: Classifier, x: Float[Tensor, "n c h w"]) -> list[Answer]:
    with torch.no_grad():
        shares = model(x.to(model.device)).float().softmax(1)
    best, where = shares.max(1)
    return [Answer(i, p) for i, p in zip(where.tolist(), best.tolist(), strict=True)]


def _address(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
