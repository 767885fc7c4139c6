"""ONNX files in, and out again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import EXPORTERS, exported, flows, load, sizes, text
from onnx import numpy_helper
from planted import planted

from detrigger.cli import run
from detrigger.errors import ModelError, UsageError
from detrigger.files.sniff import sniff
from detrigger.images import Images
from detrigger.load import load_classifier
from detrigger.measure import accuracy, success
from detrigger.model import Classifier, layers
from detrigger.onnx import wanted_size
from detrigger.repair.refit import RefitConfig, refit
from detrigger.repair.unlearn import UnlearnConfig, unlearn
from detrigger.save import save_classifier

TRUTH = planted()


def opened(path: Path) -> Classifier:
    return load_classifier(path, None, shape=TRUTH.images.shape, names=TRUTH.images.names)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_file_of_either_exporter_is_repaired_saved_and_read_again(tmp_path: Path, exporter: str) -> None:
    path = exported(exporter, tmp_path)
    before = path.read_bytes()
    model = opened(path)
    torch.testing.assert_close(model(TRUTH.images.x), TRUTH.model(TRUTH.images.x))
    assert flows(model) and layers(model)[-1] == "fc:in"
    assert model.origin.format == "onnx" and model.origin.notes == ("onnxruntime gives the same outputs",)
    repaired = refit(model, TRUTH.images, TRUTH.triggers, (2,), RefitConfig()).model
    out = tmp_path / "out" / "fixed.onnx"
    out.parent.mkdir()
    save_classifier(repaired, out)
    again = opened(out)
    torch.testing.assert_close(again(TRUTH.images.x), repaired(TRUTH.images.x))
    rates = [success(m, TRUTH.images, TRUTH.triggers[0], 2) for m in (model, again)]
    assert rates == [1, 0] and accuracy(again, TRUTH.images) == 1
    old, new = (onnx.load_from_string(data) for data in (before, out.read_bytes()))
    named = [[tensor.name for tensor in graph.initializer] for graph in (old.graph, new.graph)]
    assert new.graph.node == old.graph.node and named[0] == named[1]
    assert path.read_bytes() == before and sorted(p.name for p in out.parent.iterdir()) == ["fixed.onnx"]


def test_the_command_line_scans_and_repairs_an_onnx_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data, out = exported("dynamo", tmp_path), tmp_path / "images.npz", tmp_path / "fixed.onnx"
    pixels = (TRUTH.images.x[:, 0] * 255).round().byte().numpy()
    np.savez(data, x=pixels, y=TRUTH.images.y.numpy())
    words = [str(path), "--data", str(data), "--budget", "standard", "--precision", "fp32", "--seed", "1"]
    assert run(["repair", *words, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "REPAIRED" in told and "onnxruntime gives the same outputs" in told
    assert sniff(out).name == "onnx"
    assert success(opened(out), TRUTH.images, TRUTH.triggers[0], 2) == 0


def test_weights_that_nodes_share_part_when_training_makes_them_differ(tmp_path: Path) -> None:
    model = opened(exported("torchscript", tmp_path))
    shared = [b.place for b in model.net.plan.bindings if b.name == "norm.bias"]
    assert shared == ["norm.bias", "norm.running_mean"]  # equal in the planted network, so exported as one
    trained = unlearn(model, TRUTH.images, TRUTH.triggers, (2,), UnlearnConfig(), seed=0).model
    save_classifier(trained, tmp_path / "out.onnx")
    names = {i.name for i in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert names - {i.name for i in onnx.load(tmp_path / "planted_torchscript.onnx").graph.initializer} == {
        "norm.bias.0"
    }
    torch.testing.assert_close(opened(tmp_path / "out.onnx")(TRUTH.images.x), trained(TRUTH.images.x))


def test_a_model_saved_as_it_came_is_the_same_file(tmp_path: Path) -> None:
    path = exported("torchscript", tmp_path)
    save_classifier(opened(path), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_the_hash_is_that_of_the_file_and_its_external_data(tmp_path: Path) -> None:
    path = exported("dynamo", tmp_path)
    data = tmp_path / "planted_dynamo.onnx.data"
    assert opened(path).origin.sha256 == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()


def test_a_file_that_changed_meanwhile_is_not_built_upon(tmp_path: Path) -> None:
    path = exported("dynamo", tmp_path)
    model = opened(path)
    data = tmp_path / "planted_dynamo.onnx.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(ModelError, match="has changed since it was loaded"):
        save_classifier(model, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_an_architecture_beside_an_onnx_file_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds its architecture; leave --arch out"):
        load_classifier(exported("dynamo", tmp_path), "timm:resnet18", shape=(1, 12, 12), names=("a", "b"))


CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p)"


def test_a_softmax_at_the_end_is_left_out(tmp_path: Path) -> None:
    body = f"{CONV} m = MatMul(f, k) s = Add(m, h) i = Softmax(s) y = Identity(i)"
    path = text(tmp_path / "m", body, w=(4, 3, 3, 3), b=(4,), k=(4, 5), h=(5,))
    model = load(path)
    assert "the softmax at its end is left out, so that there are logits" in model.origin.notes
    assert not model.probabilities and (model(torch.rand(2, 3, 8, 8)).sum(1) - 1).abs().amin() > 0.01
    assert isinstance(model.net.k, torch.nn.Linear)  # and its bias came from the Add
    torch.testing.assert_close(model.net.k.bias, torch.from_numpy(_tensor(path, "h")))


def _tensor(path: Path, name: str) -> object:
    return next(numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer if i.name == name).copy()


def test_images_with_the_channels_last_and_whole_pixels_are_fed_as_they_are_wanted(tmp_path: Path) -> None:
    body = "f = Cast <to = 1> (x) t = Transpose <perm = [0, 3, 1, 2]> (f)" + CONV.replace("(x,", "(t,")
    path = text(
        tmp_path / "m",
        f"{body} y = Gemm <transB = 1> (f2, k)".replace("f = Flatten", "f2 = Flatten"),
        image="uint8[n,8,8,3] x",
        w=(4, 3, 3, 3),
        b=(4,),
        k=(5, 4),
    )
    model = load(path)
    assert model.preprocessing.std == (1 / 255,) and flows(model)
    assert any("whole pixels from 0 to 255" in note for note in model.origin.notes)
    assert any("channels last" in note for note in model.origin.notes)


def test_a_graph_made_for_one_image_takes_many(tmp_path: Path) -> None:
    attention = (
        f"{CONV} s = {sizes(1, 4, 64)} t = Reshape(r, s) j = Concat <axis = 2> (t, e)"
        f" l = ReduceMean <axes = [2], keepdims = 0> (j) y = Gemm(l, k)"
    )
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "e": (1, 4, 1), "k": (4, 5)}
    free = load(
        text(tmp_path / "m", attention, image="float[1,3,8,8] x", out="float[1,5] y", opset=13, **shapes)
    )
    assert not free.net.plan.batch
    assert len(free(torch.rand(7, 3, 8, 8))) == 7


def test_a_graph_that_mixes_its_batch_is_fed_as_many_as_it_was_made_for(tmp_path: Path) -> None:
    body = f"{CONV} a = ReduceMean <axes = [0]> (f) d = Sub(f, a) y = Gemm(d, k)"
    path = text(
        tmp_path / "m",
        body,
        image="float[2,3,8,8] x",
        out="float[2,5] y",
        opset=13,
        w=(4, 3, 3, 3),
        b=(4,),
        k=(4, 5),
    )
    model = load(path)
    assert model.net.plan.batch == 2 and "it takes 2 images at a time" in model.origin.notes[-1]
    x = torch.rand(5, 3, 8, 8)
    got = model(x)
    torch.testing.assert_close(got[2:4], model(x[2:4]))
    assert got.shape == (5, 5)


def test_half_precision_files_are_computed_in_full_and_written_in_half(tmp_path: Path) -> None:
    path = text(tmp_path / "m", f"{CONV} y = Gemm(f, k)", w=(4, 3, 3, 3), b=(4,), k=(4, 5))
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), tensor.name))
    model.graph.input[0].type.tensor_type.elem_type = model.graph.output[0].type.tensor_type.elem_type = 10
    path.write_bytes(model.SerializeToString())
    loaded = load(path)
    assert {p.dtype for p in loaded.net.parameters()} == {torch.float32}
    with torch.no_grad():
        loaded.net.k.weight[0] = 0.25
    save_classifier(loaded, tmp_path / "out")
    assert {t.data_type for t in onnx.load(tmp_path / "out").graph.initializer} == {10}
    torch.testing.assert_close(load(tmp_path / "out").net.k.weight[0], torch.full((4,), 0.25))


def test_the_size_that_a_model_wants_is_known_before_images_are_read(tmp_path: Path) -> None:
    assert wanted_size(exported("dynamo", tmp_path)) == 12
    free = text(tmp_path / "m", "y = Flatten(x)", image="float[n,3,h,w] x", out="float[n,k] y")
    assert wanted_size(free) is None


def test_images_of_another_shape_are_told_what_to_do(tmp_path: Path) -> None:
    path = exported("dynamo", tmp_path)
    for shape, message in (
        ((3, 12, 12), "it wants 1 channel, .* use --channels 1"),
        ((1, 9, 9), "use --size 12"),
    ):
        with pytest.raises(ModelError, match=message):
            load_classifier(
                path,
                None,
                shape=shape,
                names=Images(torch.zeros(1, *shape), torch.zeros(1).long(), ("a",)).names,
            )


def test_what_is_no_classifier_of_images_is_refused(tmp_path: Path) -> None:
    two = "float[n,3,8,8] x, float[n,3,8,8] z"
    cases = (
        (text(tmp_path / "a", "y = Add(x, z)", image=two), "its inputs are x, z, wanted one"),
        (text(tmp_path / "b", "y = Identity(x)", image="int64[n,7] x"), "takes INT64, wanted images"),
        (text(tmp_path / "c", "y = Identity(x)", image="float[n,7] x"), "takes N×7, wanted images"),
        (text(tmp_path / "d", "y = Identity(x)"), "wanted 8×classes"),
        (text(tmp_path / "e", "y = Identity(k)", k=(2, 5)), "does not depend on its input"),
    )
    for path, message in cases:
        with pytest.raises(ModelError, match=message):
            load(path)
