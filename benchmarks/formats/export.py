"""Nine timm architectures, untrained, by both of PyTorch's exporters, 18 files: `export.py FOLDER [NAME...]`.

Needs `pip install onnxscript`. Weights are drawn from a seed and BatchNorm statistics are moved away from
their start, so that no two tensors are equal by accident.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import timm
import torch
from torch import nn

ARCHITECTURES = {
    "resnet18": 96,
    "mixer_s32_224": 224,
    "densenet121": 96,
    "mobilenetv3_small_100": 96,
    "efficientnet_b0": 96,
    "regnety_002": 96,
    "convnext_atto": 96,
    "vit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
}
"""Name, and side of the images in pixels."""
CLASSES = 7
EXPORTERS = ("torchscript", "dynamo")


def network(name: str) -> nn.Module:
    """Untrained, with statistics and biases as training would leave them: not all alike, none all zero."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=CLASSES).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        for weight in net.parameters():
            if not weight.any():  # heads that begin at zero would make all outputs equal
                weight.normal_(0, 0.02)
    return net


def export(name: str, exporter: str, path: Path) -> None:
    """One file; the batch is free."""
    x = torch.rand(2, 3, ARCHITECTURES[name], ARCHITECTURES[name])
    net = network(name)
    if exporter == "dynamo":
        batch = torch.export.Dim("batch", min=1, max=4096)
        torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    else:
        names = {"input_names": ["image"], "output_names": ["logits"]}
        axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(net, (x,), path, dynamo=False, opset_version=17, dynamic_axes=axes, **names)


def main(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in names or ARCHITECTURES:
        for exporter in EXPORTERS:
            path = folder / f"{name}_{exporter}.onnx"
            if not path.exists():
                export(name, exporter, path)
            print(path, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
