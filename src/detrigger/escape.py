"""The smallest triggers that drive images out of their class.

A source-specific backdoor works on one class or a few, an all-to-all backdoor sends every class to another
one; neither shows in a search for one target over all sources. For the former each pair of classes is
searched, with images of other classes in the loss that are to keep theirs, as an attacker's cover samples do
(Tang et al. 2021, "Demon in the Variant", TaCT). For the latter the trigger itself finds where images go: its
loss is -log(1 - p_y), with p_y the probability of an image's own class.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from detrigger import measure
from detrigger.heats import Goal, InvertConfig, Map, Progress, serial, silent
from detrigger.images import Images
from detrigger.invert import Inversion, inverted, race
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES

FAMILY = "patch"


def from_pairs(
    model: Classifier,
    images: Images,
    goals: tuple[Goal, ...],
    config: InvertConfig,
    *,
    seed: int,
    map: Map = serial,
    progress: Progress = silent,
) -> Inversion:
    """Per pair of source and target, the smallest patch that sends images of the source there; and no others,
    if the config says that those are `kept`, for which `images` should be such as are given their class.

    Raises ModelError for a network whose outputs or gradients are not finite.
    """
    done = race(model, images, goals, FAMILY, config, seed=seed, map=map, progress=progress)
    sources = tuple(goal.source for goal in goals if goal.source is not None)
    return inverted(model, done, tuple(goal.code for goal in goals), sources)


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

    The target is the class that most held-out images of a source then get, the success the share given it;
    for the classes of which there are held-out images. Raises ModelError as `from_pairs` does.
    """
    done = race(model, images, (Goal(None),), FAMILY, config, seed=seed, map=map, progress=progress)
    tested = done.tests(0)
    answers = measure.logits(model, tested.x, done.trigger)
    sources = tuple(tested.y.unique().tolist())
    again = {name: t.expand(len(sources), *t.shape[1:]) for name, t in done.trigger.tensors().items()}
    trigger = FAMILIES[FAMILY].load(again)
    said = [answers[tested.y == source].argmax(1) for source in sources]
    targets = tuple(_most(p[p != source], source) for p, source in zip(said, sources, strict=True))
    success = [
        ((p == t) & (p != source)).float().mean().item()
        for p, t, source in zip(said, targets, sources, strict=True)
    ]
    k = len(sources)
    return Inversion(
        FAMILY,
        targets,
        trigger,
        trigger.size(),
        torch.tensor(success),
        done.heats.expand(k),
        done.image_passes + len(tested),
        done.precision,
        sources,
        done.early.expand(k),
    )


def _most(elsewhere: Int[Tensor, " n"], source: int) -> int:
    """The commonest class; the source itself if no image went elsewhere, where nothing was achieved."""
    return int(elsewhere.mode().values) if len(elsewhere) else source
