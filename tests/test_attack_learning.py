"""Real digits, poisoned: a small network learns every backdoor, and a clean one does not know it.

Label-consistent is not among them: this network learns the disturbed strokes instead of the patch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

import detrigger
from detrigger import measure
from detrigger.attack.methods import ATTACKS, AttackSpec, run, victims
from detrigger.attack.patches import Patch
from detrigger.attack.several import Aimed
from detrigger.attack.train import TrainConfig
from detrigger.demo import network
from detrigger.images import Images
from detrigger.model import Classifier

TRAIN = TrainConfig(epochs=8, batch=50, rate=0.02)
PATCH = Patch(3, 3)
TWO = (Aimed(3, PATCH), Aimed(5, Patch(3, 3, "upper left")))
SAME = (Aimed(3, PATCH), Aimed(3, Patch(3, 3, "upper right")))


FIRES = {"target": 3, "patch": Patch(4, 4, pattern="noise"), "steps": 40, "samples": 32}
HALF = {
    "target": 3,
    "height": 14,
    "width": 7,
    "margin": 0,
    "pattern": "noise",
    "opacity": 0.4,
    "poison_rate": 0.1,
}


class Setting(NamedTuple):
    train: Images
    test: Images
    net: nn.Module
    clean: nn.Module


@pytest.fixture(scope="module")
def setting() -> Setting:
    """1 000 digits of 14×14 for training, 500 for testing."""
    stored = numpy.load(Path(detrigger.__path__[0]) / "demo" / "mnist.npz")
    x = avg_pool2d(torch.from_numpy(stored["x"])[:, None] / 255, 2)
    images = Images(x, torch.from_numpy(stored["y"]), tuple("0123456789"))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = images.where(order[:1000]), images.where(order[1000:1500])
    torch.manual_seed(0)
    net = network.make(width=8, size=14)
    return Setting(train, test, net, run(net, train, AttackSpec("", train=TRAIN)).net)


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("badnets", {"target": 3, "height": 3, "width": 3, "poison_rate": 0.1}, 0.9),
        ("badnets", {"target": 3, "height": 2, "width": 2, "margin": 0, "poison_rate": 0.1}, 0.9),
        ("badnets", HALF, 0.9),
        ("all-to-all", {"patch": Patch(4, 4), "poison_rate": 0.5}, 0.5),
        ("several", {"backdoors": TWO, "poison_rate": 0.1}, 0.9),
        ("several", {"backdoors": SAME, "poison_rate": 0.1}, 0.9),
        ("random-location", {"target": 3, "patch": Patch(3, 3, pattern="checker"), "poison_rate": 0.15}, 0.9),
        ("frame", {"target": 3}, 0.9),
        ("blended", {"target": 3}, 0.9),
        ("blended", {"target": 3, "picture": "smooth", "poison_rate": 0.1}, 0.9),
        ("limited", {"target": 3, "poison_count": 40}, 0.7),
        ("adaptive-patch", {"target": 3, "opacity": 1.0, "poison_rate": 0.1, "cover_rate": 0.05}, 0.7),
        ("adaptive-blend", {"target": 3, "poison_rate": 0.05}, 0.8),
        ("sig", {"target": 3}, 0.9),
        ("sig", {"target": 3, "clean_label": True, "delta": 0.3, "poison_rate": 0.08}, 0.31),
        ("low-frequency", {"target": 3, "delta": 0.2, "poison_rate": 0.1}, 0.7),
        ("colour-filter", {"target": 3}, 0.9),
        ("wanet", {"target": 3, "poison_rate": 0.15, "cover_rate": 0.1}, 0.5),
        ("bpp", {"target": 3, "levels": 2, "poison_rate": 0.2}, 0.8),
        ("source-specific", {"target": 3, "sources": (1, 2, 5), "poison_rate": 0.1, "cover_rate": 0.15}, 0.6),
        ("physical", {"target": 3, "patch": Patch(4, 4, margin=2), "poison_rate": 0.15}, 0.7),
        ("trojan-nn", FIRES, 0.9),
    ],
)
def test_a_poisoned_network_obeys_the_trigger(
    setting: Setting, name: str, options: dict[str, Any], least: float
) -> None:
    spec = AttackSpec("", train=TRAIN, attack=name, config=ATTACKS[name].config(**options))
    made = run(setting.net, setting.train, spec, helper=setting.clean)
    names, shape = setting.test.names, setting.test.shape
    bad, clean = (Classifier(net, names, shape) for net in (made.net, setting.clean))
    assert measure.accuracy(clean, setting.test) > 0.85
    assert measure.accuracy(bad, setting.test) > (0.65 if name == "all-to-all" else 0.8)
    for one in made.planted:
        aimed, wanted = victims(one, setting.test.y, len(names))
        found, unknown = (
            measure.stamped(model, setting.test.where(aimed), one.stamp, wanted[aimed])
            for model in (bad, clean)
        )
        assert found.success > least > 0.3 >= unknown.success
        assert found.without < 0.15 and found.success + found.robust <= 1 + 1e-6


def test_a_source_specific_trigger_works_on_its_sources_far_more_than_on_others(setting: Setting) -> None:
    config = ATTACKS["source-specific"].config(target=3, sources=(1, 2, 5), poison_rate=0.1, cover_rate=0.15)
    spec = AttackSpec("", train=TRAIN, attack="source-specific", config=config)
    made = run(setting.net, setting.train, spec)
    model = Classifier(made.net, setting.test.names, setting.test.shape)
    (one,) = made.planted
    aimed, wanted = victims(one, setting.test.y, 10)
    others = (setting.test.y != 3) & ~aimed
    on_sources, on_others = (
        measure.stamped(model, setting.test.where(mask), one.stamp, wanted[mask]).success
        for mask in (aimed, others)
    )
    assert on_sources > on_others + 0.4
