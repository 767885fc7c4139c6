"""ONNX files that are damaged, or made to do harm: one line each, and nothing read from elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
from graphs import exported, load, sizes, text

from detrigger.errors import ModelError
from detrigger.load import load_classifier
from detrigger.model import Classifier


def opened(path: Path) -> Classifier:
    return load_classifier(path, None, shape=(1, 12, 12), names=tuple("012345"))


DATA = "planted_dynamo.onnx.data"


def relocated(folder: Path, location: str, **other: str) -> Path:
    """The planted network, with its external data said to be elsewhere."""
    path = exported("dynamo", folder)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = {"location": location, **other}.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../secret", "C:\\secret", "..\\secret", ""]
)
def test_external_data_outside_of_the_folder_are_not_opened(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(100_000))
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match="outside of its folder; not opened") as error:
        opened(relocated(folder, location))
    assert "\n" not in str(error.value)


def test_external_data_behind_a_link_out_of_the_folder_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(100_000))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "here").symlink_to(tmp_path / "secret")
    (folder / "sub").symlink_to(tmp_path)
    for location in ("here", "sub/secret"):
        with pytest.raises(ModelError, match="is a link out of its folder"):
            opened(relocated(folder, location))


def test_external_data_that_are_missing_or_short_are_told(tmp_path: Path) -> None:
    for other, message in (
        ({"location": "none"}, "'none' is missing; put that file beside the model"),
        ({"location": DATA, "length": "99999999999"}, "claims 99999999999 bytes"),
        ({"location": DATA, "offset": "-8"}, "from -8 of"),
        ({"location": DATA, "offset": "x"}, "cannot be read"),
        ({"location": DATA, "length": "8"}, "is damaged"),
    ):
        with pytest.raises(ModelError, match=message):
            opened(relocated(tmp_path, **other))


def test_tensors_cannot_claim_the_same_bytes_again_and_again(tmp_path: Path) -> None:
    path = exported("dynamo", tmp_path)
    model = onnx.load(path, load_external_data=False)
    outside = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for i in range(3):
        model.graph.initializer.add().CopyFrom(outside)
        model.graph.initializer[-1].name = str(i)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="claims 8064 bytes from 0"):
        opened(path)


def test_a_graph_that_asks_for_endless_memory_is_refused(tmp_path: Path) -> None:
    huge = sizes(1, 3, 100_000, 100_000)
    for body in (
        f"a = {huge} b = ConstantOfShape(a) y = Flatten(b)",
        f"a = {huge} b = ReduceMean(x) c = Expand(b, a) y = Flatten(c)",
        f"a = {huge} b = Tile(x, a) y = Flatten(b)",
        f"a = {sizes(0, 0, 0, 0, 0, 0, 99_999, 99_999)} b = Pad(x, a) y = Flatten(b)",
        f"a = {huge} b = Resize(x, , , a) y = Flatten(b)",
        "a = Constant <value_int = 0> () b = Constant <value_int = 99999999999> ()"
        " c = Constant <value_int = 1> () d = Range(a, b, c) f = Flatten(x) y = Add(f, d)",
    ):
        with pytest.raises(ModelError, match="asks for a tensor of"):
            load(text(tmp_path / "m", body, out="float[n,k] y"))


def test_files_cut_short_or_with_changed_bytes_are_one_line_or_still_right(tmp_path: Path) -> None:
    path = exported("torchscript", tmp_path)
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for i in range(40):
        data = bytearray(whole[: draw.randrange(30, len(whole))] if i % 2 else whole)
        for _ in range(0 if i % 2 else 4):
            data[draw.randrange(len(data) // 8)] = draw.randrange(256)
        path.write_bytes(data)
        try:
            opened(path)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 20


def test_functions_and_sparse_weights_are_named(tmp_path: Path) -> None:
    path = text(tmp_path / "m", "y = Flatten(x)")
    model = onnx.load(path)
    model.functions.add().name = "Mine"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"functions of its own \(Mine ...\); put them in place with"):
        load(path)
    del model.functions[:]
    model.graph.sparse_initializer.add()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="sparse weights"):
        load(path)
