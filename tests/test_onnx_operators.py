"""Operators against onnxruntime: `load` compares both on noise and refuses what differs.

ONNX's own test vectors are run by `benchmarks/formats/operators.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graphs import flows, load, sizes, text

from detrigger.errors import ModelError
from detrigger.onnx import parity
from detrigger.onnx.operators import OPERATORS
from detrigger.onnx.resize import resize

LOW, HIGH = "l = Constant <value_float = 0.2> ()", "h = Constant <value_float = 0.5> ()"
SCALES = "e = Constant <value_floats = [1.0, 1.0, 1.5, 2.25]> ()"
VARIANCE = "v = Constant <value_floats = [1.0, 2.0, 3.0]> ()"
BODIES = {
    "activations": f"{LOW} {HIGH} a = LeakyRelu <alpha = 0.2> (x) b = Gelu(a) c = Elu(b) q = Clip(c, l, h)",
    "old clip and softmax": "a = Clip <min = 0.2, max = 0.7> (x) b = Softmax(a) q = Mul(b, x)",
    "max pool": "q = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]> (x)",
    "mean pool": "q = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 1, 1]> (x)",
    "same": 'q = Conv <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w)',
    "uneven": "q = Conv <pads = [0, 1, 2, 1], group = 3> (x, g)",
    "transposed": "q = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)",
    "norms": f"{VARIANCE} a = BatchNormalization(x, s, s, s, v) b = InstanceNormalization(a, s, s)"
    " q = LRN <size = 3> (b)",
    "linear": f'{SCALES} q = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric">'
    " (x, , e)",
    "cubic": f'{SCALES} q = Resize <mode = "cubic"> (x, , e)',
    "cuts": f"i = {sizes(7, -1)} j = {sizes(-9, 1)} o = {sizes(3, 1)} t = {sizes(-2, -1)}"
    " q = Slice(x, i, j, o, t)",
    "parts": "a, b = Split <axis = 2, num_outputs = 2> (x) c = Mul(a, b) q = Concat <axis = 1> (a, c)",
    "moved": "a = Conv(x, z) b = DepthToSpace <blocksize = 2> (a) q = Transpose <perm = [0, 2, 1, 3]> (b)",
    "picked": f"i = {sizes(2, -3)} q = Gather <axis = 3> (x, i)",
    "sizes": f"a = Shape(x) b = {sizes(1)} c = Gather(a, b) m = {sizes(0)} o = {sizes(-1)}"
    " n = Concat <axis = 0> (m, c, o) q = Reshape(x, n)",
    "sums": f"a = {sizes(2, 3)} b = ReduceL2(x, a) c = ReduceMax(x, a) q = Sub(b, c)",
    "padded": f'p = {sizes(0, 0, 1, 2, 0, 0, 2, 1)} q = Pad <mode = "reflect"> (x, p)',
    "branches": f"{HIGH} a = Greater(x, h) b = Mul(x, x) q = Where(a, b, x)",
}
BODIES["attention"] = "q = Attention <scale = 0.3> (x, x, x)"
BODIES["standardised weights"] = (
    f"t = {sizes(1, 3, 27)} u = {sizes(3, 3, 3, 3)} {VARIANCE} a = Reshape(r, t)"
    " b, m, n = BatchNormalization <training_mode = 1> (a, s, s, s, v) c = Reshape(b, u) q = Conv(x, c)"
)
OPSETS = {"old clip and softmax": 10, "attention": 23}
WEIGHTS = {"w": (3, 3, 3, 3), "g": (3, 1, 3, 3), "s": (3,), "z": (8, 3, 1, 1), "r": (3, 3, 3, 3)}


def written(path: Path, body: str, opset: int = 20) -> Path:
    """Every value that comes out is a class."""
    used = {name: shape for name, shape in WEIGHTS.items() if f", {name}" in body or f"({name}," in body}
    return text(path, f"{body} y = Flatten(q)", out="float[n,k] y", opset=opset, **used)


@pytest.mark.parametrize("name", BODIES)
def test_operators_do_what_onnxruntime_does(tmp_path: Path, name: str) -> None:
    model = load(written(tmp_path / "m", BODIES[name], opset=OPSETS.get(name, 20)), classes=2)
    assert flows(model) and "onnxruntime gives the same outputs" in model.origin.notes


def test_a_wrong_operator_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "Elu", torch.relu)
    with pytest.raises(ModelError, match=r"outputs differ from onnxruntime's by .* of the largest"):
        load(written(tmp_path / "m", "a = Sub(x, x) b = Sub(a, x) q = Elu(b)"))


def test_what_is_not_supported_is_named_and_counted(tmp_path: Path) -> None:
    for body, message in (
        (
            "a = NonMaxSuppression(x, x) b = Det(a) q = Det(b)",
            r"NonMaxSuppression \(1 node\), Det \(2 nodes\) are",
        ),
        ('q = Resize <antialias = 1, mode = "linear"> (x, , e)', "Resize with mode 'linear' and .*antialias"),
        ("q = Elu <gamma = 2.0> (x)", r"its node 'q' \(Elu\) fails: .*'gamma'"),
        ("q = Cast <to = 8> (x)", "Cast to ONNX type 8 is not supported"),
        ("a, q = MaxPool <kernel_shape = [2, 2]> (x)", "'q' is used before it is made"),
    ):
        with pytest.raises(ModelError, match=message):
            load(written(tmp_path / "m", f"{SCALES} {body}"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m", "q = Relu(x)")
    for package in ("onnxruntime", "onnx"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(ModelError, match=r"pip install 'detrigger\[onnx\]'"):
            load(path)


def test_a_file_that_onnxruntime_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "_TYPES", {"FLOAT": torch.float64})
    with pytest.raises(ModelError, match=r"onnxruntime does not run it \(.*\); export the model again"):
        load(written(tmp_path / "m", "q = Relu(x)"))


def test_resizing_as_pytorch_does() -> None:
    x = torch.rand(2, 3, 7, 5)
    for new in ((14, 9), (4, 3)):
        wanted = torch.nn.functional.interpolate(x, new, mode="bilinear", align_corners=False)
        got = resize(x, None, None, torch.tensor([2, 3, *new]), mode="linear")
        torch.testing.assert_close(got, wanted)
