"""ONNX files: one of the planted network per exporter, and small ones written as text."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from detrigger.load import load_classifier
from detrigger.model import Classifier

MODELS = Path(__file__).parent / "models"
EXPORTERS = ("torchscript", "dynamo")
"""`benchmarks/formats/planted.py` made them: the first takes one image, the second has external data."""


def exported(exporter: str, folder: Path) -> Path:
    """A copy of the planted network's file, with what belongs to it."""
    for path in MODELS.glob(f"planted_{exporter}.onnx*"):
        shutil.copy(path, folder / path.name)
    return folder / f"planted_{exporter}.onnx"


def text(
    path: Path,
    body: str,
    *,
    image: str = "float[n,3,8,8] x",
    out: str = "float[n,5] y",
    opset: int = 18,
    **weights: tuple[int, ...],
) -> Path:
    """A file with a graph written in ONNX's text format; weights are drawn at random in these shapes."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({image}) => ({out}) {{ {body} }}'
    )
    random = np.random.default_rng(0)
    for name, shape in weights.items():
        values = random.normal(0, 0.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path.write_bytes(model.SerializeToString())
    return path


def load(path: Path, *, shape: tuple[int, int, int] = (3, 8, 8), classes: int = 5) -> Classifier:
    """Also checks parity with onnxruntime."""
    return load_classifier(path, None, shape=shape, names=tuple(map(str, range(classes))))


def sizes(*values: int) -> str:
    """A constant of whole numbers, as text."""
    return f"Constant <value_ints = [{', '.join(map(str, values))}]> ()"


def flows(model: Classifier) -> bool:
    """A finite gradient that is not zero reaches the images."""
    x = torch.rand(3, *model.image_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    return bool(gradient.isfinite().all() and gradient.abs().sum() > 0)
