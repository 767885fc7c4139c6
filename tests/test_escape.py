"""Triggers that drive images out of their class, on networks whose triggers are known."""

from __future__ import annotations

import dataclasses

from planted import one_source, planted, rotating
from torch import Tensor

from detrigger.escape import from_all, from_pairs
from detrigger.heats import Goal, InvertConfig, Stage
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import Trigger

CONFIG = InvertConfig(stages=(Stage(60, 16),), success=0.9, precision="fp32")


def sent(model: Classifier, images: Images, trigger: Trigger, source: int) -> Tensor:
    return model(trigger(images.x[images.y == source])[0]).argmax(1)


def test_one_trigger_is_found_that_sends_every_class_to_another() -> None:
    model, images = rotating()
    found = from_all(model, images, CONFIG, seed=0)
    assert found.sources == (0, 1, 2, 3, 4, 5) and found.targets == (1, 2, 3, 4, 5, 0)
    assert found.size.amax() < 8 and bool((found.size == found.size[0]).all())
    assert found.success.amin() > 0.7
    assert found.image_passes == 60 * 16 + 60  # steps, and all of the held-out images
    for i, (source, target) in enumerate(zip(found.sources, found.targets, strict=True)):
        assert (sent(model, images, found.trigger[i], source) == target).float().mean() > 0.7
    clean = planted(targets=())
    assert from_all(clean.model, clean.images, CONFIG, seed=0).size[0] > 3 * found.size[0]


def test_a_pair_that_a_planted_neuron_joins_needs_less_than_others() -> None:
    model, images = one_source()
    pairs = tuple(Goal(t, s) for s in (1, 4) for t in (0, 2, 3))
    found = from_pairs(model, images, pairs, dataclasses.replace(CONFIG, kept=0.5), seed=0)
    assert found.sources == (1, 1, 1, 4, 4, 4) and found.targets == (0, 2, 3, 0, 2, 3)
    assert int(found.size.argmin()) == 4 and found.success[4] > 0.7
    assert found.size[4] < 0.7 * found.size[[0, 1, 2, 3, 5]].amin()
    assert (sent(model, images, found.trigger[4], 4) == 2).float().mean() > 0.7
