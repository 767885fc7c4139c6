"""Preprocessing and the order of classes: from names, from flags, by trial; what is proposed when off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import exported
from planted import planted

from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.load import architecture, as_named, as_told, trial
from detrigger.measure import accuracy, order_of_classes
from detrigger.model import Preprocessing
from detrigger.scan import ScanConfig, scan

TRUTH = planted()
ORDER = torch.tensor([3, 0, 1, 5, 4, 2])
"""Label that a data set with its classes mixed up gives to each class."""


def images(*names: str) -> Images:
    return Images(torch.zeros(len(names), 1, 2, 2), torch.arange(len(names)), names, sha256="ab")


def mixed_up() -> Images:
    names = [""] * len(ORDER)
    for i, label in enumerate(ORDER.tolist()):
        names[label] = TRUTH.images.names[i]
    return dataclasses.replace(TRUTH.images, y=ORDER[TRUTH.images.y], names=tuple(names))


def test_classes_that_both_name_are_put_into_the_models_order() -> None:
    found, said = as_named(images("Black_cat", "dog"), ("wolf", "dog, hound", "black cat"))
    assert found.names == ("wolf", "dog, hound", "black cat") and found.y.tolist() == [2, 1]
    assert said == "classes are in the model's order, by their names" and found.sha256 != "ab"


def test_data_that_number_their_classes_take_the_models_names() -> None:
    found, said = as_named(images("0", "1"), ("wolf", "dog", "cat"))
    assert found.names == ("wolf", "dog", "cat") and found.y.tolist() == [0, 1] and "number" in said
    assert as_named(images("0", "1"), ("wolf",))[0].names == ("0", "1")  # refused later, with both counts


def test_names_that_do_not_agree_leave_the_data_as_they_are() -> None:
    for names in (("dog", "bird"), ("dog", "dog"), ("Dog", "dog")):
        data = images("dog", "cat") if len(set(names)) == 2 and "bird" in names else images("dog", "Dog")
        found, said = as_named(data, names)
        assert found.y.tolist() == [0, 1] and "the order of the data is taken" in said
    for same in ((), ("a", "b")):
        data = images("a", "b")
        assert as_named(data, same) == (data, "")


def test_an_order_that_is_told_must_have_every_class_once() -> None:
    found = as_told(images("a", "b"), ("b", "c", "a"))
    assert found.y.tolist() == [2, 0] and found.names == ("b", "c", "a")
    with pytest.raises(UsageError, match="--class-order lacks 'b'; give each class"):
        as_told(images("a", "b"), ("a", "c"))
    with pytest.raises(UsageError, match="has a name twice"):
        as_told(images("a", "b"), ("a", "b", "b"))


def test_a_mixed_up_order_is_proposed_and_the_proposal_is_right() -> None:
    data = mixed_up()
    model = dataclasses.replace(TRUTH.model, classes=data.names)
    assert accuracy(model, data) < 0.4
    found = scan(model, data, ScanConfig(budget="quick"))
    assert found.finding.verdict == "inconclusive"
    proposed = found.finding.reasons[-1].partition("--class-order ")[2].removesuffix(" if that is right")
    assert "clean accuracy would be 100.0%" in found.finding.reasons[-1]
    right = as_told(data, tuple(proposed.split(",")))
    assert accuracy(dataclasses.replace(model, classes=right.names), right) == 1
    assert right.names == TRUTH.images.names


def test_no_order_is_seen_where_classes_share_an_output_or_have_no_images() -> None:
    y = torch.tensor([0, 0, 1, 2, 2, 2])
    assert order_of_classes(torch.tensor([1, 1, 0, 2, 2, 1]), y, 3) == ((1, 0, 2), 5 / 6)
    assert order_of_classes(torch.tensor([1, 1, 1, 2, 2, 2]), y, 3) == ((), 0.0)
    assert order_of_classes(torch.tensor([1, 1, 0, 2, 2, 2]), y, 4) == ((), 0.0)


def test_preprocessing_that_nobody_told_is_found_by_accuracy() -> None:
    wanted = Preprocessing((0.5,), (0.5,))
    inverse = torch.nn.Sequential(Affine(0.5, 0.5), TRUTH.model.net)  # wants images in [-1, 1]
    model = dataclasses.replace(TRUTH.model, net=inverse)
    found = trial.best(model, TRUTH.images)
    assert found.preprocessing == wanted and accuracy(found, TRUTH.images) == 1
    assert "images are normalised to [-1, 1]" in found.origin.notes[-1]
    assert trial.best(TRUTH.model, TRUTH.images) is TRUTH.model


class Affine(torch.nn.Module):
    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def test_published_weights_tell_their_preprocessing() -> None:
    imagenet = trial.COMMON["as for ImageNet"]
    assert architecture.preprocessing("timm:resnet18") == imagenet
    assert architecture.preprocessing("torchvision:resnet18") == imagenet
    for none in ("timm:none", "torchvision:none", "file.py:make", ""):
        assert architecture.preprocessing(none) is None


def test_the_command_line_resizes_and_reorders_as_the_model_wants(tmp_path: Path) -> None:
    path, data = exported("dynamo", tmp_path), tmp_path / "images.npz"
    x = torch.nn.functional.interpolate(TRUTH.images.x, scale_factor=2)[:, 0]  # the model takes 12×12
    np.savez(data, x=(x * 255).round().byte().numpy(), y=ORDER[TRUTH.images.y].numpy())
    names = tmp_path / "order.txt"
    names.write_text("".join(f"{label}\n" for label in ORDER.tolist()))
    model, found = read_inputs(path, InputFlags(data, class_order=str(names)))
    assert found.shape == (1, 12, 12) and accuracy(model, found) == 1
    assert model.origin.notes[-1] == "classes are in the order of --class-order"
    with pytest.raises(UsageError, match="--class-order lacks '1'"):
        read_inputs(path, InputFlags(data, class_order="0,2"))
