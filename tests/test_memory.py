"""A scan stays within the memory it was given, and finds the same with little as with much."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from planted import Planted, planted
from torch import Tensor, nn

from detrigger import memory
from detrigger.errors import UsageError
from detrigger.heats import InvertConfig, Stage
from detrigger.images import Images
from detrigger.invert import Inversion, invert
from detrigger.model import Classifier

GB = 1 << 30


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("8GB", 8 * GB), ("1.5g", 3 * GB // 2), ("2 GiB", 2 * GB), ("800MB", 800 << 20), ("64", 64)],
)
def test_amounts_are_read_as_people_write_them(text: str, wanted: int) -> None:
    assert memory.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "8 X", "1e9", "1,5GB"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="wanted an amount as in 8GB or 800MB"):
        memory.parse(text)


def test_what_is_free_and_used_is_told_by_the_system() -> None:
    cpu = torch.device("cpu")
    before = memory.used(cpu)
    held = torch.ones(100 << 18)  # 100 MB
    assert 0.9 * held.nbytes < memory.used(cpu) - before < 2 * held.nbytes
    assert 0 < memory.free(cpu) < 1 << 50


def test_a_container_leaves_what_its_limit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 800000 kB\n"}
    monkeypatch.setattr(memory, "_read", lambda path: told.get(path, ""))
    assert memory.free(torch.device("cpu")) == 800_000 << 10
    told |= {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "100\n"}
    assert memory.free(torch.device("cpu")) == 800_000 << 10
    told["/sys/fs/cgroup/memory.max"] = "1100\n"
    assert memory.free(torch.device("cpu")) == 1000


class Wide(nn.Module):
    """Keeps two tensors of 1000 floats per image for the gradient: the products' other sides."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.flatten(1).mean(1, keepdim=True).expand(-1, 1000).clone()
        return (wide.sin() * wide).reshape(len(x), 2, 500).sum(2)


def test_what_a_pass_keeps_is_counted_without_the_weights() -> None:
    model = Classifier(Wide(), ("a", "b"), (1, 4, 4))
    assert memory.per_image(model) == 2 * 4 * 1000  # wide itself and its sine


def limited(truth: Planted, at_once: int | None) -> Inversion:
    model = dataclasses.replace(truth.model, at_once=at_once)
    config = InvertConfig(stages=(Stage(15, 8), Stage(10, 16, 0.7)), precision="fp32")
    return invert(model, truth.images, tuple(range(6)), "patch", config, seed=0)


def test_little_memory_finds_the_same_and_never_more_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = planted()
    much, seen = limited(truth, None), []
    forward = nn.Sequential.forward
    monkeypatch.setattr(nn.Sequential, "forward", lambda net, x: [seen.append(len(x)), forward(net, x)][1])
    little = limited(truth, 3)
    assert max(seen) == 3
    assert torch.allclose(much.size, little.size, rtol=1e-3)
    assert torch.equal(much.success, little.success) and much.image_passes == little.image_passes


def test_predictions_and_activations_are_put_together_from_parts() -> None:
    truth = planted()
    model = dataclasses.replace(truth.model, at_once=5)
    x = truth.images.x[:13]
    torch.testing.assert_close(model(x), truth.model(x))
    torch.testing.assert_close(model.activations(x, "relu2"), truth.model.activations(x, "relu2"))


def told(limit: int, monkeypatch: pytest.MonkeyPatch, **changed: int) -> int | None:
    monkeypatch.setattr(memory, "used", lambda device: 1000)
    images = Images(torch.zeros(4, 3, 10, 10), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    model = Classifier(Wide(), images.names, images.shape)
    options = {"classes": 2, "batch": 8, "jobs": 1} | changed
    return memory.within(model, images, limit, **options).at_once


def test_a_limit_pays_for_what_is_held_first(monkeypatch: pytest.MonkeyPatch) -> None:
    image, patch, each = 1200, 1600, int(memory.FACTOR * 8000) + 1200
    fixed = 1000 + 4 * image + 2 * memory.COPIES * patch + memory.STAMPED * 8 * image

    def limit(needed: int) -> int:
        return math.ceil(needed / memory.SLACK)

    assert told(limit(fixed + 7 * each), monkeypatch) == 7
    assert told(limit(fixed + memory.STAMPED * 8 * image + 14 * each), monkeypatch, jobs=2) == 7
    assert told(1 << 40, monkeypatch) == memory.MOST
    with pytest.raises(
        UsageError, match=r"--memory of 0.00 GB is too little: 4 images of 3×10×10 and 2 classes"
    ):
        told(limit(fixed + each) - 2, monkeypatch)
