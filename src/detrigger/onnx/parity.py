"""Whether a network does what onnxruntime does with the file it came from."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from detrigger.errors import ModelError
from detrigger.onnx.network import Network
from detrigger.onnx.reading import Reading

_TYPES = {"FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "UINT8": torch.uint8}


def probe(reading: Reading, images: int) -> Float[Tensor, "n c h w"]:
    """Noise in the range of pixels that the graph takes, whole numbers where it takes those."""
    x = torch.rand(images, *reading.image, generator=torch.Generator().manual_seed(2))
    return (x * 255).round() if reading.dtype == "UINT8" else x


def check(data: bytes, net: Network, reading: Reading, *, tolerance: float) -> None:
    """Raises ModelError if network and file differ by more than a share of the largest output."""
    x = probe(reading, reading.batch or 4)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with torch.no_grad():
        ours = net.ended(net(x.to(device))).cpu()
    fed = net.fed(x).to(_TYPES[reading.dtype]).contiguous()
    theirs = _run(data, reading, fed).reshape(ours.shape)
    scale = max(1e-3, theirs.abs().max().item())
    difference = (ours - theirs).abs().max().item() / scale
    if not difference <= tolerance:
        raise ModelError(
            f"the outputs differ from onnxruntime's by {difference:.1e} of the largest, at most "
            f"{tolerance:.0e} is allowed; please report the operators of this model"
        )


def _run(data: bytes, reading: Reading, x: Tensor) -> Tensor:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise ModelError("ONNX files need two more packages; pip install 'detrigger[onnx]'") from error
    failures = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoModel)
    more = (state.NotImplemented, state.RuntimeException, state.EPFail, RuntimeError, ValueError)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (result,) = session.run([reading.returned], {reading.input: x.numpy()})
    except (*failures, *more) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"onnxruntime does not run it ({reason}); export the model again") from error
    return torch.as_tensor(result).float()
