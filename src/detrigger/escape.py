"""The smallest triggers that drive images out of their class, wherever they go.

A source-specific backdoor works on one class or a few, an all-to-all backdoor sends every class to another
one; neither shows in a search for one target over all sources. A search for every pair of classes would cost
the square of their number. Here the trigger itself finds where images go: its loss is -log(1 - p_y), with p_y
the probability of an image's own class.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detrigger import measure
from detrigger.heats import Goal, InvertConfig, Map, Progress, serial, silent
from detrigger.images import Images
from detrigger.invert import Inversion, Race, race
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES, Trigger

FAMILY = "patch"


def from_each(
    model: Classifier,
    images: Images,
    sources: tuple[int, ...],
    config: InvertConfig,
    *,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> Inversion:
    """Per source class, the smallest patch that gives its images another class.

    The target is the class that most held-out images then get, the success the share of images given it.
    Raises ModelError for a network whose outputs or gradients are not finite.
    """
    goals = tuple(Goal(None, source) for source in sources)
    done = race(model, images, goals, FAMILY, config, seed=seed, map=map, progress=progress)
    return _inversion(done, done.trigger, sources, done.answers(model))


def from_all(
    model: Classifier,
    images: Images,
    config: InvertConfig,
    *,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> Inversion:
    """The smallest patch that gives all images another class than their own: the same for each source class.

    As `from_each`, for the classes of which there are held-out images.
    """
    done = race(model, images, (Goal(None),), FAMILY, config, seed=seed, map=map, progress=progress)
    tested = done.tests(0)
    answers = measure.logits(model, tested.x, done.trigger)
    sources = tuple(tested.y.unique().tolist())
    again = {name: t.expand(len(sources), *t.shape[1:]) for name, t in done.trigger.tensors().items()}
    trigger = FAMILIES[FAMILY].load(again)
    return _inversion(done, trigger, sources, [answers[tested.y == source] for source in sources])


def _inversion(
    done: Race, trigger: Trigger, sources: tuple[int, ...], answers: list[Float[Tensor, "_n classes"]]
) -> Inversion:
    """From the logits of stamped images of each source."""
    said = [a.argmax(1) for a in answers]
    targets = [_most(p[p != source], source) for p, source in zip(said, sources, strict=True)]
    margins = [
        measure.margins(a, torch.full_like(p, t)) for a, p, t in zip(answers, said, targets, strict=True)
    ]
    success = [
        ((p == t) & (p != source)).float().mean().item()
        for p, t, source in zip(said, targets, sources, strict=True)
    ]
    k = len(sources)
    return Inversion(
        FAMILY,
        tuple(targets),
        trigger,
        trigger.size(),
        torch.tensor(success),
        done.heats.expand(k),
        done.image_passes + sum(len(p) for p in said),
        done.precision,
        sources,
        done.early.expand(k),
        torch.stack([m.mean() for m in margins]).cpu(),
    )


def _most(elsewhere: Int[Tensor, " n"], source: int) -> int:
    """The commonest class; the source itself if no image went elsewhere, where nothing was achieved."""
    return int(elsewhere.mode().values) if len(elsewhere) else source
