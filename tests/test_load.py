from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import NET, archive, checkpoint, plain_pickle
from PIL import Image
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from detrigger.errors import DataError, ModelError, UsageError
from detrigger.load import (
    load_classifier,
    load_images,
    load_trigger,
    parse_arguments,
    read_tensors,
    state_dict,
)
from detrigger.load.architecture import build
from detrigger.model import Classifier, Preprocessing
from detrigger.save import save_trigger
from detrigger.trigger.patch import PatchTrigger

FACTORY = """
import torch
from torch import nn

def make(channels=3, classes=5, ending="logits"):
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, classes))
    return nn.Sequential(*net, nn.Softmax(1)) if ending == "softmax" else net

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a
    def forward(self, x):
        return self.b(self.a(x.mean((2, 3))))

def number():
    return 5

class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(7, 3)
    def forward(self, x):
        return self.a(x.flatten(1))
"""
NAMES = tuple("abcde")


@pytest.fixture
def arch(tmp_path: Path) -> str:
    (tmp_path / "arch.py").write_text(FACTORY)
    return f"{tmp_path / 'arch.py'}:make"


def weights(path: Path, net: nn.Module = NET) -> Path:
    save_file(net.state_dict(), path)
    return path


def load(path: Path, arch: str | None, *arguments: str, **options: Any) -> Classifier:
    settings: dict[str, Any] = {"shape": (3, 8, 8), "names": NAMES} | options
    return load_classifier(path, arch, parse_arguments(arguments), **settings)


def logits(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(x)


# ---- arguments and architectures


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


# ---- weights


@pytest.mark.parametrize("how", ["safetensors", "zip", "legacy"])
def test_weights_come_back_bit_by_bit(tmp_path: Path, arch: str, how: str) -> None:
    path = tmp_path / "weights"
    if how == "safetensors":
        weights(path)
    else:
        torch.save(NET.state_dict(), path, _use_new_zipfile_serialization=how == "zip")
    model = load(path, arch, "classes=5")
    x = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(model(x), logits(NET, x))
    assert all(torch.equal(v, NET.state_dict()[k]) for k, v in model.net.state_dict().items())
    assert model.classes == NAMES and not model.probabilities
    assert model.origin.format == ("safetensors" if how == "safetensors" else "state-dict")
    assert model.origin.path == str(path) and len(model.origin.sha256) == 64
    assert model.origin.architecture == f"{arch} classes=5"


def test_a_missing_architecture_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the architecture with --arch, as in --arch timm:resnet18"):
        load(weights(tmp_path / "m"), None)


def test_a_missing_file_is_an_error(tmp_path: Path, arch: str) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*none.pth"):
        load(tmp_path / "none.pth", arch)


def test_a_checkpoint_is_unwrapped_and_prefixes_are_taken_off(tmp_path: Path, arch: str) -> None:
    state = nn.DataParallel(nn.Sequential(*NET)).state_dict()
    assert all(key.startswith("module.") for key in state)
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "m.pth")
    read = read_tensors(tmp_path / "m.pth")
    assert read.tensors.keys() == NET.state_dict().keys()
    assert "'model_state_dict'" in read.notes[0] and "'module.'" in read.notes[1]
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(load(tmp_path / "m.pth", arch)(x), logits(NET, x))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_in_a_checkpoint_is_named_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "marker"
    path = checkpoint(tmp_path / "m.pth", marker, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"would import posix.system when opened, so it is not opened"):
        read_tensors(path)
    with pytest.raises(ModelError, match=r"a Python pickle that would import posix.system"):
        read_tensors(plain_pickle(tmp_path / "m.pkl", marker, 4))
    assert not marker.exists()


def test_pytorch_too_is_told_to_read_nothing_but_weights(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(ModelError, match="cannot read .* as a state dict"):
        state_dict.read(checkpoint(tmp_path / "m.pth", marker))
    assert not marker.exists()


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(NET, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"would import torch\.nn\.modules\.\S+, .* save the weights alone"):
        read_tensors(tmp_path / "m.pth")


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for value, message in (
        ({"epoch": 3, "lr": 0.1}, "a mapping with keys epoch, lr, wanted a state dict"),
        ([1], "holds list"),
        ({}, "holds dict"),
        ({"a": torch.eye(2).to_sparse()}, "would import torch._utils._rebuild_sparse_tensor"),
    ):
        torch.save(value, tmp_path / "m.pth")
        with pytest.raises(ModelError, match=message):
            read_tensors(tmp_path / "m.pth")


def test_truncated_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m"
    torch.save(NET.state_dict(), path)
    zipped = path.read_bytes()
    torch.save(NET.state_dict(), path, _use_new_zipfile_serialization=False)
    legacy, tensors = path.read_bytes(), weights(path).read_bytes()
    cases = [
        zipped[:-50],
        zipped[:100],
        legacy[:-10],
        legacy[:300],
        tensors[:-10],
        tensors[:40],
        tensors[:7],
        b"",
    ]
    for data in [*cases, tensors.replace(b"F32", b"F99"), zipped.replace(b"torch", b"tirch")]:
        path.write_bytes(data)
        with pytest.raises(ModelError) as error:
            read_tensors(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_formats_that_are_not_read_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m"
    archive(path, {"m/archive_format": b"pt2"})
    with pytest.raises(ModelError, match=r"torch.export program .*save the weights alone"):
        read_tensors(path)
    archive(path, {"m/data.pkl": b"N.", "m/constants.pkl": b"N."})
    with pytest.raises(ModelError, match=r"TorchScript program; it is not opened"):
        read_tensors(path)
    archive(path, {"config.json": b"{}", "model.weights.h5": b""})
    with pytest.raises(ModelError, match=r"Keras 3 model; .*ONNX"):
        read_tensors(path)
    with pytest.raises(ModelError, match="is a folder; give the weights file itself"):
        read_tensors(tmp_path)


# ---- weights into the architecture


def test_other_shapes_are_named_with_both(tmp_path: Path, arch: str) -> None:
    with pytest.raises(
        ModelError, match=r"4.weight is 5×4 in the file, 10×4 in the architecture; 4.bias is 5 in"
    ):
        load(weights(tmp_path / "m"), arch, "classes=10")


def test_missing_and_unexpected_keys_are_named_and_counted(tmp_path: Path, arch: str) -> None:
    state = NET.state_dict()
    state["other.bias"] = state.pop("4.bias")
    save_file(state, tmp_path / "m")
    with pytest.raises(
        ModelError, match=r"1 missing in the file \(4.bias\); 1 not in the architecture \(other.bias\)"
    ):
        load(tmp_path / "m", arch)


def test_half_precision_files_fit_a_full_precision_net(tmp_path: Path, arch: str) -> None:
    save_file({k: v.half() for k, v in NET.state_dict().items()}, tmp_path / "m")
    model = load(tmp_path / "m", arch)
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), logits(NET, x), atol=2e-3, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, arch: str, value: float) -> None:
    state = {k: v.clone() for k, v in NET.state_dict().items()}
    state["4.weight"][1, 1] = value
    save_file(state, tmp_path / "m")
    with pytest.raises(ModelError, match=r"4.weight holds NaN or infinite values"):
        load(tmp_path / "m", arch)


def test_quantised_weights_are_not_taken_for_floats(tmp_path: Path, arch: str) -> None:
    save_file({k: v.char() for k, v in NET.state_dict().items()}, tmp_path / "m")
    with pytest.raises(ModelError, match=r"0.\w+ is int8 in the file, float32 in the architecture"):
        load(tmp_path / "m", arch)


def test_shared_weights_may_be_in_the_file_once(tmp_path: Path, arch: str) -> None:
    tied = build(arch.replace("make", "Tied"), {}, {})
    save_model(tied, str(tmp_path / "m"))
    assert len(read_tensors(tmp_path / "m").tensors) == 2
    model = load(tmp_path / "m", arch.replace("make", "Tied"), names=tuple("012"))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), logits(tied, x))


def test_counters_of_batch_norm_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))"
    )
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "m")
    assert load(tmp_path / "m", str(tmp_path / "a.py:make"), shape=(3, 2, 2), names=("a", "b")).classes == (
        "a",
        "b",
    )


# ---- what comes out


def test_probabilities_are_noticed(tmp_path: Path, arch: str) -> None:
    net = nn.Sequential(*NET, nn.Softmax(1))
    model = load(weights(tmp_path / "m", net), arch, "ending=softmax")
    assert model.probabilities
    x = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(model(x).softmax(1), logits(net, x))


def test_grey_images_for_a_colour_model_are_told_apart(tmp_path: Path, arch: str) -> None:
    with pytest.raises(ModelError, match="the model wants 3 channels, the images have 1; use --channels 3"):
        load(weights(tmp_path / "m"), arch, shape=(1, 8, 8))


def test_a_forward_that_fails_is_one_line_with_the_size(tmp_path: Path, arch: str) -> None:
    path = weights(tmp_path / "m", nn.ModuleDict({"a": nn.Linear(7, 3)}))
    with pytest.raises(
        ModelError, match=r"the network fails on images of shape 3×8×8 .*check --size"
    ) as error:
        load(path, arch.replace("make", "Fails"), names=("a", "b", "c"))
    assert "\n" not in str(error.value)


def test_a_single_output_is_not_a_classifier(tmp_path: Path, arch: str) -> None:
    net = nn.Sequential(*NET[:4], nn.Linear(4, 1))
    with pytest.raises(ModelError, match="returned 8×1, wanted 8×classes"):
        load(weights(tmp_path / "m", net), arch, "classes=1", names=("a",))


def test_preprocessing_is_part_of_the_model(tmp_path: Path, arch: str) -> None:
    shift = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2,))
    model = load(weights(tmp_path / "m"), arch, preprocessing=shift)
    x = torch.rand(2, 3, 8, 8)
    wanted = logits(NET, (x - torch.tensor(shift.mean).reshape(1, 3, 1, 1)) / 0.2)
    torch.testing.assert_close(model(x), wanted)
    with pytest.raises(ModelError, match="--mean has 2 values"):
        load(tmp_path / "m", arch, preprocessing=Preprocessing(mean=(0.5, 0.5)))


def test_classes_of_data_and_model_must_agree_unless_the_names_are_numbers(tmp_path: Path, arch: str) -> None:
    path = weights(tmp_path / "m")
    assert load(path, arch, names=("0", "1", "2")).classes == ("0", "1", "2", "3", "4")
    assert load(path, arch, names=("00", "01")).classes == ("00", "01", "2", "3", "4")
    for names in (("a", "b"), tuple("abcdef"), tuple("012345")):
        with pytest.raises(DataError, match=f"the data have {len(names)} classes .* the model has 5"):
            load(path, arch, names=names)


# ---- images: folders


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4), value: Any = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def test_class_folders_become_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "1.png", value=(255, 0, 51))
    picture(tmp_path / "cat" / "x" / "2.png", value=(0, 102, 0))
    picture(tmp_path / "cat" / ".hidden.png")
    picture(tmp_path / ".git" / "3.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    found = load_images(tmp_path)
    assert found.names == ("cat", "dog") and found.y.tolist() == [0, 1] and found.shape == (3, 4, 6)
    torch.testing.assert_close(found.x[:, :, 0, 0], torch.tensor([[0, 0.4, 0], [1, 0, 0.2]]))
    assert found.path == str(tmp_path) and len(found.sha256) == 64
    assert load_images(tmp_path).sha256 == found.sha256
    picture(tmp_path / "dog" / "1.png", value=(255, 0, 52))
    assert load_images(tmp_path).sha256 != found.sha256


def test_folders_named_by_whole_numbers_are_labels(tmp_path: Path) -> None:
    for name in ("0", "1", "10", "2"):
        picture(tmp_path / name / "a.png", mode="L", value=int(name))
    found = load_images(tmp_path)
    assert (found.x[:, 0, 0, 0] * 255).round().int().tolist() == found.y.tolist() == [0, 1, 10, 2]
    assert found.names == tuple(str(i) for i in range(11))
    picture(tmp_path / "00" / "a.png")
    with pytest.raises(DataError, match="same class number"):
        load_images(tmp_path)


def test_images_are_grey_only_if_all_are(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", mode="L", value=51)
    picture(tmp_path / "a" / "2.png", mode="1", value=1)
    picture(tmp_path / "b" / "3.png", mode="I;16", value=13107)
    found = load_images(tmp_path)
    assert found.shape[0] == 1
    torch.testing.assert_close(found.x[:, 0, 0, 0], torch.tensor([0.2, 1.0, 0.2]))
    assert load_images(tmp_path, channels=3).shape[0] == 3
    picture(tmp_path / "b" / "4.png", mode="RGB", value=(255, 0, 0))
    picture(tmp_path / "b" / "5.png", mode="RGBA", value=(0, 255, 0, 9))
    picture(tmp_path / "b" / "6.png", mode="P", value=0)
    mixed = load_images(tmp_path)
    torch.testing.assert_close(mixed.x[0, :, 0, 0], torch.full((3,), 0.2))
    assert mixed.x[4, :, 0, 0].tolist() == [0, 1, 0]
    grey = load_images(tmp_path, channels=1)
    torch.testing.assert_close(grey.x[3, :, 0, 0], torch.tensor([0.299]))


def test_images_of_differing_size_need_one(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a" / "1.png"), picture(tmp_path / "b" / "2.png", size=(8, 4))
    with pytest.raises(DataError, match=f"{a} is 6×4 pixels, {b} is 8×4; give one size with --size"):
        load_images(tmp_path)
    assert load_images(tmp_path, size=4).shape == (3, 4, 4)


def test_resizing_keeps_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12), dtype=np.uint8)
    pixels[:, 4:8] = 255
    for name in "ab":
        picture(tmp_path / name / "1.png")
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    assert load_images(tmp_path, size=4).x.min() == 1
    half = load_images(tmp_path, size=2, interpolation="nearest").x
    assert half.shape == (2, 1, 2, 2) and half.min() == 1
    for method in ("bilinear", "bicubic"):
        up = load_images(tmp_path, size=8, interpolation=method).x
        assert up.shape[2:] == (8, 8) and up.min() >= 0 and up.max() <= 1


def test_a_limit_draws_by_seed(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(8):
            picture(tmp_path / name / f"{i}.png", value=(i, i, i))
    few = load_images(tmp_path, limit_per_class=3, seed=1)
    assert few.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(few.x, load_images(tmp_path, limit_per_class=3, seed=1).x)
    drawn = {load_images(tmp_path, limit_per_class=3, seed=s).sha256 for s in range(5)}
    assert len(drawn) > 1


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        load_images(tmp_path / "none")
    with pytest.raises(DataError, match="has no folders in it; wanted one folder of images per class"):
        load_images(tmp_path)
    picture(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="has a single class, 'a'"):
        load_images(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"b holds no images"):
        load_images(tmp_path)
    for split in ("train", "val"):
        picture(tmp_path / "all" / split / "a" / "1.png")
    with pytest.raises(DataError, match="holds splits, not classes"):
        load_images(tmp_path / "all")


def test_corrupt_images_are_counted_and_named(tmp_path: Path) -> None:
    good = picture(tmp_path / "a" / "1.png", size=(64, 64), value=(3, 4, 5))
    bad = picture(tmp_path / "b" / "2.png", size=(64, 64))
    (tmp_path / "b" / "3.jpg").write_bytes(b"not an image")
    bad.write_bytes(good.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"2 of 3 images cannot be read, the first is {bad}") as error:
        load_images(tmp_path)
    assert "\n" not in str(error.value)


def test_only_common_kinds_of_images_are_decoded(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.pcx").rename(tmp_path / "b" / "2.png")
    with pytest.raises(DataError, match="1 of 2 images cannot be read"):
        load_images(tmp_path)


@pytest.mark.parametrize("limit", [10, 20])
def test_images_that_unpack_to_too_much_are_refused(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow warns above it, raises above twice that
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.png")
    with pytest.raises(DataError, match=f"would unpack to more than {limit} pixels"):
        load_images(tmp_path)


def test_options_that_do_not_exist_are_usage_errors(tmp_path: Path) -> None:
    for options in ({"size": 0}, {"channels": 2}, {"interpolation": "magic"}, {"limit_per_class": 0}):
        with pytest.raises(UsageError):
            load_images(tmp_path, **options)  # type: ignore[arg-type]


def test_a_thin_strip_is_not_blown_up(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / name / "1.png", size=(600, 1))
    with pytest.raises(DataError, match="600×1 pixels, too long"):
        load_images(tmp_path, size=32)


# ---- images: npz


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz_in_every_layout(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    y = np.array([0, 1, 2, 1])
    path = tmp_path / "d.npz"
    wanted = torch.from_numpy(x).movedim(3, 1) / 255
    for given in (x, x.transpose(0, 3, 1, 2), (x / 255).astype(np.float32), (x / 255)):
        found = load_images(npz(path, x=given, y=y))
        torch.testing.assert_close(found.x, wanted)
        assert found.y.tolist() == [0, 1, 2, 1] and found.names == ("0", "1", "2")
    assert load_images(npz(path, x=x[..., 0], y=y)).shape == (1, 5, 6)
    assert load_images(npz(path, x=x, y=y, names=np.array([], dtype=str))).names == ("0", "1", "2")
    both = load_images(npz(path, x=x[:, :3], y=y.astype(np.float64)[:, None]))  # 3×6×3: channels last
    torch.testing.assert_close(both.x, wanted[:, :, :3])
    named = load_images(npz(path, x=x, y=y, names=np.array(["a", "b", "c", "d"])), size=4, channels=1)
    assert named.names == ("a", "b", "c", "d") and named.shape == (1, 4, 4)
    assert named.path == str(path) and len(named.sha256) == 64
    assert load_images(path, limit_per_class=1).y.sort().values.tolist() == [0, 1, 2]


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    x, y = np.zeros((3, 4, 4), dtype=np.uint8), np.arange(3)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"x": np.array([{}] * 3), "y": y}, "array of Python objects, which is not opened"),
        ({"x": x}, "has no array y, only x"),
        ({"a": x, "b": y}, "has no array x or y, only a, b"),
        ({"x": x, "y": y[:2]}, "x has 3 images, y has 2 labels"),
        ({"x": x, "y": y - 1}, "y holds the label -1, wanted whole numbers"),
        ({"x": x, "y": y + 0.5}, "y holds the label 0.5"),
        ({"x": x, "y": np.array([0, 1, np.nan])}, "y holds the label nan"),
        ({"x": x, "y": y * 10**12}, "y holds the label 1000000000000"),
        ({"x": x, "y": np.array(["a", "b", "c"])}, "wanted one whole number per image"),
        ({"x": x.astype(np.int64), "y": y}, "x is of type int64, wanted uint8"),
        ({"x": x.astype(np.float32) + 9, "y": y}, "pixels range from 9 to 9"),
        ({"x": np.zeros((3, 4, 4, 2), np.uint8), "y": y}, "x is 3×4×4×2, wanted"),
        ({"x": x[:0], "y": y[:0]}, "no images"),
        ({"x": x, "y": y, "names": np.array(["a", "b"])}, "wanted one text per class for labels up to 2"),
    ]
    for arrays, message in cases:
        with pytest.raises(DataError, match=message) as error:
            load_images(npz(tmp_path / "d.npz", **arrays))
        assert "\n" not in str(error.value)


def test_damaged_npz_and_other_files_are_not_data(tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.arange(2)).read_bytes()
    for cut in (data[:-30], data[: len(data) // 2], data.replace(b"descr", b"dexcr")):
        (tmp_path / "d.npz").write_bytes(cut)
        with pytest.raises(DataError):
            load_images(tmp_path / "d.npz")
    with pytest.raises(DataError, match="is a safetensors file; wanted a folder"):
        load_images(weights(tmp_path / "m"))


# ---- triggers


def test_a_trigger_comes_back_with_its_target(tmp_path: Path) -> None:
    trigger = PatchTrigger(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4))
    save_trigger(trigger, tmp_path / "t.safetensors", target=3, family="patch")
    loaded, metadata = load_trigger(tmp_path / "t.safetensors")
    assert metadata == {"family": "patch", "target": "3"}
    assert all(torch.equal(loaded.tensors()[k], v) for k, v in trigger.tensors().items())


def test_files_that_are_no_triggers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no trigger file"):
        load_trigger(tmp_path / "none")
    with pytest.raises(DataError, match="is of family '', wanted a trigger of one of patch"):
        load_trigger(weights(tmp_path / "m"))
    (tmp_path / "m").write_bytes(b"hello")
    with pytest.raises(DataError, match="wanted a saved trigger"):
        load_trigger(tmp_path / "m")
    save_file({"masks": torch.zeros(1, 1, 2, 2)}, tmp_path / "m", metadata={"family": "patch"})
    with pytest.raises(DataError, match="patterns"):
        load_trigger(tmp_path / "m")
