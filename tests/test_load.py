from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hostile import archive, checkpoint, plain_pickle
from nets import NAMES, NET, load, logits, weights, written
from safetensors.torch import save_file, save_model
from torch import nn

from detrigger.errors import DataError, ModelError, UsageError
from detrigger.load import read_tensors
from detrigger.load.architecture import build
from detrigger.model import Preprocessing


@pytest.fixture
def arch(tmp_path: Path) -> str:
    return written(tmp_path)


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
    assert model.origin.format == {"zip": "state-dict", "legacy": "legacy-state-dict"}.get(how, how)
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
    with pytest.raises(
        ModelError, match=r"would call posix.system when opened with ordinary tools, so it is not used"
    ):
        read_tensors(path)
    with pytest.raises(ModelError, match=r"a Python pickle that would call posix.system"):
        read_tensors(plain_pickle(tmp_path / "m.pkl", marker, 4))
    assert not marker.exists()


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for value, message in (
        ({"epoch": 3, "lr": 0.1}, "a mapping with keys epoch, lr, wanted a state dict"),
        ([1], "holds a list"),
        ({}, r"holds a mapping with keys \(none\)"),
        ({"a": torch.eye(2).to_sparse()}, "would call torch._utils._rebuild_sparse_tensor"),
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
    with pytest.raises(ModelError, match=r"holds no list of weights; export it again with PyTorch 2.8"):
        read_tensors(path)
    archive(path, {"m/data.pkl": b"N.", "m/constants.pkl": b"N."})
    with pytest.raises(ModelError, match=r"holds a NoneType, wanted a state dict"):
        read_tensors(path)
    archive(path, {"config.json": b"{}", "model.weights.h5": b""})
    with pytest.raises(ModelError, match=r"Keras 3 model; .*ONNX"):
        read_tensors(path)
    with pytest.raises(ModelError, match="is a folder; give the weights file itself"):
        read_tensors(tmp_path)


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
