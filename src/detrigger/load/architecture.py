"""An untrained network by name, from timm, torchvision or the user's own file."""

from __future__ import annotations

import difflib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from detrigger.errors import UsageError
from detrigger.model import Preprocessing

WANTED = "timm:NAME, torchvision:NAME or path/to/file.py:factory"
OWN_CODE = "detrigger_architecture_"
"""Before the names of modules that are files of the user's."""
_DOWNLOADS = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "weights",
    "weights_backbone",
}
_FAILURES = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, AssertionError, OSError)


def parse_arguments(pairs: Iterable[str]) -> dict[str, object]:
    """Arguments of an architecture from `key=value` texts; a value is read as JSON where it parses.

    Raises UsageError for a text without `=`, or a key given twice.
    """
    arguments: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--arch-kw {pair!r} is not key=value; give for example --arch-kw width=20")
        if key in arguments:
            raise UsageError(f"--arch-kw {key} is given twice; give it once")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


def build(spec: str, arguments: Mapping[str, object], tensors: Mapping[str, Tensor]) -> nn.Module:
    """An untrained network; for timm and torchvision, classes and input channels are read from `tensors`.

    `spec` is `timm:NAME`, `torchvision:NAME` or `path/to/file.py:factory`, the user's own code, which is run.
    Nothing is downloaded. Raises UsageError for a name or an argument that does not exist.
    """
    kind, _, name = spec.partition(":")
    if kind in {"timm", "torchvision"}:
        banned = sorted(_DOWNLOADS & arguments.keys())
        if banned:
            raise UsageError(f"--arch-kw {banned[0]} is not allowed: weights come from the model file alone")
        return (_timm if kind == "timm" else _torchvision)(name, arguments, tensors)
    file, _, factory = spec.rpartition(":")
    if not file.endswith(".py"):
        raise UsageError(f"unknown architecture {spec!r}; wanted {WANTED}")
    return _made(spec, _factory(Path(file), factory), arguments)


def preprocessing(spec: str) -> Preprocessing | None:
    """What the published weights of an architecture of timm or torchvision want, if there are any."""
    kind, _, name = spec.partition(":")
    if kind == "timm":
        import timm

        told = timm.models.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
        return Preprocessing(tuple(told.mean), tuple(told.std)) if told and told.mean and told.std else None
    if kind == "torchvision":
        from torchvision import models

        weights = (
            models.get_model_weights(name).DEFAULT if name in models.list_models(module=models) else None
        )
        made = weights.transforms() if weights else None
        return Preprocessing(tuple(made.mean), tuple(made.std)) if made else None
    return None


def _made(spec: str, factory: Callable[..., object], arguments: Mapping[str, object]) -> nn.Module:
    try:
        net = factory(**arguments)
    except _FAILURES as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"{spec} cannot be built ({type(error).__name__}: {reason}); check --arch-kw"
        ) from error
    if not isinstance(net, nn.Module):
        raise UsageError(f"{spec} returned {type(net).__name__}, wanted a torch.nn.Module")
    return net


def _unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    close = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    advice = f"close to it are {', '.join(close)}" if close else f"see the list of models of {kind}"
    return UsageError(f"{kind} has no model {name!r}; {advice}")


def _timm(name: str, arguments: Mapping[str, object], tensors: Mapping[str, Tensor]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    told = timm.models.get_pretrained_cfg(name)
    heads, convs = (_several(getattr(told, key, None)) for key in ("classifier", "first_conv"))
    inferred: dict[str, object] = {}
    if classes := _length(tensors, heads, 0):
        inferred["num_classes"] = classes
    if channels := _length(tensors, convs, 1):
        inferred["in_chans"] = channels
    return _made(f"timm:{name}", timm.create_model, {"model_name": name, **inferred, **arguments})


def _torchvision(name: str, arguments: Mapping[str, object], tensors: Mapping[str, Tensor]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    spec = f"torchvision:{name}"
    fixed: dict[str, object] = {"name": name, "weights": None}
    if name in {"googlenet", "inception_v3"}:  # their slow default is to be changed, of which they warn
        fixed["init_weights"] = False
    try:
        with torch.device("meta"):
            sketch = models.get_model(**fixed)
    except NotImplementedError:  # regnet looks at its values while it is made
        sketch = models.get_model(**fixed)
    layers = list(sketch.named_modules())
    heads = [n for n, m in layers if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    first = next(n for n, m in layers if isinstance(m, nn.Conv2d))
    inferred = dict(arguments)
    if classes := _length(tensors, heads[-1:], 0):
        inferred.setdefault("num_classes", classes)
    net = _made(spec, models.get_model, {**fixed, **inferred})
    channels = _length(tensors, [first], 1)
    return _with_channels(net, first, channels) if channels else net


def _with_channels(net: nn.Module, name: str, channels: int) -> nn.Module:
    """torchvision has no argument for the input channels; people replace the first convolution."""
    old = net.get_submodule(name)
    if not isinstance(old, nn.Conv2d) or old.in_channels == channels:
        return net
    shape: dict[str, Any] = {
        k: getattr(old, k) for k in ("kernel_size", "stride", "padding", "dilation", "groups")
    }
    net.set_submodule(name, nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **shape))
    return net


def _several(names: object) -> list[str]:
    return (
        [names]
        if isinstance(names, str)
        else [str(n) for n in names]
        if isinstance(names, tuple | list)
        else []
    )


def _length(tensors: Mapping[str, Tensor], layers: Iterable[str], axis: int) -> int:
    """Length of an axis of the weight of the first of these layers that the file has; 0 if it has none."""
    found = (tensors[f"{name}.weight"].shape for name in layers if f"{name}.weight" in tensors)
    return next((shape[axis] for shape in found if len(shape) > axis), 0)


def _factory(file: Path, name: str) -> Callable[..., object]:
    """A function of the user's own file, which is imported. Its folder is on the path meanwhile."""
    if not file.is_file():
        raise UsageError(f"there is no file {file} to take the architecture from; wanted {WANTED}")
    module = _imported(file)
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [
            n
            for n, v in vars(module).items()
            if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        raise UsageError(f"{file} has no function {name!r}; it has {', '.join(own[:12]) or 'none'}")
    return factory  # type: ignore[no-any-return]


def _imported(file: Path) -> ModuleType:
    name = f"{OWN_CODE}{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, *_FAILURES) as error:
        del sys.modules[name]
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"{file} cannot be imported ({type(error).__name__}: {reason})") from error
    finally:
        sys.path.remove(folder)
    return module
