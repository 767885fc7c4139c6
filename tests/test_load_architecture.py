from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import load, logits, weights, written
from torch import nn

from detrigger.errors import UsageError
from detrigger.load import parse_arguments
from detrigger.load.architecture import build


@pytest.fixture
def arch(tmp_path: Path) -> str:
    return written(tmp_path)


def test_arguments_are_json_where_they_parse_and_text_elsewhere() -> None:
    read = parse_arguments(["a=3", "b=[1, 2]", "c=cnn4", "d=x=y", "e=true", 'f="5"'])
    assert read == {"a": 3, "b": [1, 2], "c": "cnn4", "d": "x=y", "e": True, "f": "5"}
    for wrong in (["a"], ["=3"], ["a b=3"], ["a=1", "a=2"]):
        with pytest.raises(UsageError):
            parse_arguments(wrong)


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(UsageError, match=r"timm has no model 'resnet81'; close to it are .*resnet18"):
        build("timm:resnet81", {}, {})
    with pytest.raises(UsageError, match=r"torchvision has no model 'vgg61'; close to it are .*vgg16"):
        build("torchvision:vgg61", {}, {})
    with pytest.raises(UsageError, match="unknown architecture 'resnet18'; wanted timm:NAME"):
        build("resnet18", {}, {})


def test_nothing_is_ever_downloaded() -> None:
    for spec, key in (("timm:test_resnet", "pretrained"), ("torchvision:resnet18", "weights")):
        with pytest.raises(UsageError, match=f"{key} is not allowed"):
            build(spec, {key: True}, {})
    with pytest.raises(UsageError, match="no model"):
        build("timm:hf-hub:somebody/model", {}, {})


def test_mistakes_in_the_users_factory_are_one_line(arch: str, tmp_path: Path) -> None:
    for spec, arguments, message in (
        (arch, {"width": 3}, "cannot be built .*unexpected keyword argument 'width'"),
        (arch.replace("make", "mkae"), {}, "has no function 'mkae'; it has make"),
        (arch.replace("make", "number"), {}, "returned int, wanted a torch.nn.Module"),
        (str(tmp_path / "none.py:make"), {}, "there is no file"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            build(spec, arguments, {})
        assert "\n" not in str(error.value)
    (tmp_path / "wrong.py").write_text("def make(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        build(str(tmp_path / "wrong.py:make"), {}, {})


def test_a_factory_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_arch.py").write_text("from torch import nn\n")
    (tmp_path / "a.py").write_text("from neighbour_of_arch import nn\ndef make(): return nn.Linear(1, 2)\n")
    assert isinstance(build(str(tmp_path / "a.py:make"), {}, {}), nn.Linear)


def test_a_timm_net_is_built_with_classes_and_channels_of_the_file(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    model = load(weights(tmp_path / "m", net), "timm:test_resnet", shape=(1, 32, 32), names=tuple("0123456"))
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model(x), logits(net, x))
    assert model.origin.architecture == "timm:test_resnet" and model.origin.format == "safetensors"


def test_a_torchvision_net_is_built_with_classes_and_channels_of_the_file(tmp_path: Path) -> None:
    from torchvision import models

    net = models.squeezenet1_1(num_classes=4)
    net.features[0] = nn.Conv2d(1, 64, 3, stride=2)
    path = weights(tmp_path / "m", net)
    model = load(path, "torchvision:squeezenet1_1", shape=(1, 32, 32), names=tuple("0123"))
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model(x), logits(net, x))
