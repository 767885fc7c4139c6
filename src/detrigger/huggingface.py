"""Image classifiers of transformers, built from settings and tensors alone: no file is opened."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detrigger.errors import ModelError

TYPES = (
    "beit",
    "bit",
    "convnext",
    "convnextv2",
    "cvt",
    "data2vec-vision",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "efficientnet",
    "focalnet",
    "hgnet_v2",
    "hiera",
    "levit",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "mobilevitv2",
    "poolformer",
    "pvt",
    "pvt_v2",
    "regnet",
    "resnet",
    "segformer",
    "siglip",
    "swiftformer",
    "swin",
    "swinv2",
    "vit",
    "vit_msn",
)
"""Values of `model_type` that are built: code of transformers itself, which takes images alone."""
_UNUSED = {
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "return_dict",
    "output_attentions",
}
_FAILURES = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RuntimeError,
    AssertionError,
    ZeroDivisionError,
)


def network(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """An image classifier with these weights, which returns logits.

    Only settings that the type itself knows are used. Raises ModelError for other types, for settings it
    cannot be built from, and for weights that do not fit.
    """
    kind = config["model_type"]
    if kind not in TYPES:
        raise ModelError(f"its model_type {kind!r} is not supported; wanted one of {', '.join(TYPES)}")
    settings, build = _classes(kind)
    known = inspect.signature(settings.__init__).parameters.keys() - _UNUSED
    used = {key: value for key, value in config.items() if key in known and not key.startswith("_")}
    try:
        made = settings(**used)
        with torch.device("meta"):
            values = sum(p.numel() for p in build(made).parameters())
        given = sum(tensor.numel() for tensor in tensors.values())
        if values > 2 * given:
            raise ModelError(
                f"its settings ask for {values:,} weights, its file has {given:,}; they do not fit"
            )
        net, told = build.from_pretrained(
            None, config=made, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
        )
    except _FAILURES as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"its {kind} network cannot be built ({type(error).__name__}: {reason})") from error
    wrong = [*told["missing_keys"], *told["mismatched_keys"]]
    if wrong:
        raise ModelError(f"{len(wrong)} of its weights are missing or of another shape, as {wrong[0]}")
    built: nn.Module = net
    built.register_forward_hook(_logits)
    return built


def stored(net: nn.Module) -> dict[str, Tensor]:
    """The weights of such a network, under the names that files have."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(net, dict(net.state_dict())))


def _logits(_net: nn.Module, _inputs: Any, output: Any) -> Any:
    return getattr(output, "logits", output)


def _classes(kind: str) -> tuple[Any, Any]:
    """Of the settings, and of the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as error:
        raise ModelError("Hugging Face folders need transformers; pip install 'detrigger[hf]'") from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    name = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[kind]
    settings = transformers.CONFIG_MAPPING[kind]
    return settings, getattr(transformers, name if isinstance(name, str) else name[0])
