"""The planted network of the tests as ONNX files, by both exporters: `planted.py`, into tests/models/.

Needs `pip install onnxscript`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

TESTS = Path(__file__).parents[2] / "tests"


def main() -> None:
    sys.path.insert(0, str(TESTS))
    from planted import planted

    warnings.simplefilter("ignore")
    folder = TESTS / "models"
    folder.mkdir(exist_ok=True)
    net = planted().model.net.to(memory_format=torch.contiguous_format)
    x = torch.rand(2, 1, 12, 12)
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        net,
        (x,),
        folder / "planted_dynamo.onnx",
        dynamo=True,
        dynamic_shapes=({0: batch},),
        external_data=True,
        verbose=False,
    )
    torch.onnx.export(
        net,
        (x[:1],),
        folder / "planted_torchscript.onnx",
        dynamo=False,
        opset_version=17,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


if __name__ == "__main__":
    main()
