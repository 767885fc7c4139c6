"""The demo's models, images and trigger are what its README says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import detrigger
from detrigger import measure
from detrigger.attack.badnets import trigger
from detrigger.attack.methods import read_spec
from detrigger.demo import network
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.trigger import FAMILIES

DEMO = Path(detrigger.__path__[0]) / "demo"


@pytest.fixture(scope="module")
def demo() -> Callable[[str], tuple[Classifier, Images, Tensor]]:
    stored = numpy.load(DEMO / "mnist.npz")
    x, y = torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"])
    images = Images(x[:, None] / 255, y, tuple("0123456789"))

    def load(name: str) -> tuple[Classifier, Images, Tensor]:
        net = network.make(**read_spec(DEMO / f"{name}.toml").arguments)
        net.load_state_dict(load_file(DEMO / f"{name}.safetensors"))
        return Classifier(net, images.names, images.shape), images, y

    return load


@pytest.mark.parametrize(("name", "accuracy", "hits"), [("clean", 0.992, 0), ("badnets", 0.9915, 1798)])
def test_the_demos_models_are_as_good_and_as_bad_as_its_readme_says(
    demo: Callable[[str], tuple[Classifier, Images, Tensor]], name: str, accuracy: float, hits: int
) -> None:
    model, images, y = demo(name)
    planted_trigger = FAMILIES["patch"].load(load_file(DEMO / "planted_trigger.safetensors"))
    assert torch.bincount(y).tolist() == [200] * 10
    assert measure.accuracy(model, images) == pytest.approx(accuracy, abs=0.0011)
    assert abs(int(measure.hits(model, images, planted_trigger, 7).sum()) - hits) <= 2


def test_the_demos_trigger_is_that_of_its_recipe() -> None:
    spec = read_spec(DEMO / "badnets.toml")
    with safe_open(DEMO / "planted_trigger.safetensors", "pt") as file:
        assert file.metadata() == {"family": "patch", "target": str(spec.config.target)}
        made = trigger(spec.config, (1, 28, 28))
        assert torch.equal(file.get_tensor("masks"), made.masks)
        assert torch.equal(file.get_tensor("patterns"), made.patterns)


def test_the_demos_recipes_differ_in_the_attack_alone() -> None:
    clean, bad = (read_spec(DEMO / f"{name}.toml") for name in ("clean", "badnets"))
    assert clean == replace(bad, attack=None, config=None)


def test_the_demos_network_takes_images_of_8_pixels_and_more() -> None:
    for size in (8, 33):
        net = network.make(channels=3, classes=5, width=4, size=size).eval()
        assert net(torch.rand(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(ValueError, match="at least 8"):
        network.make(size=7)


def test_the_files_are_those_whose_checksums_the_readme_lists() -> None:
    listed = re.findall(
        r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", (DEMO / "README.md").read_text(), re.MULTILINE
    )
    assert len(listed) == 4
    for name, checksum in listed:
        assert hashlib.sha256((DEMO / name).read_bytes()).hexdigest() == checksum
