"""Weights into an architecture, and what comes out of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger.errors import DataError, ModelError
from detrigger.model import Preprocessing

_SHOWN = 4
"""Names shown in an error."""


def filled(net: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `net` with these weights, in the types of `net`.

    Left out may be the step counters of BatchNorm, and all but one name of weights that are shared.
    Raises ModelError for names or shapes that do not fit, and for NaN or infinite values.
    """
    net = copy.deepcopy(net)
    own = net.state_dict()
    given = {**_implied(own, tensors), **tensors}
    _check_fit(own, given)
    for name, value in given.items():
        if own[name].is_floating_point() != value.is_floating_point():
            raise ModelError(
                f"{name} is {_dtype(value)} in the file, {_dtype(own[name])} in the architecture; "
                "quantised weights must be converted to floats first"
            )
        if value.is_floating_point() and not bool(value.to(own[name].dtype).isfinite().all()):
            raise ModelError(
                f"{name} holds NaN or infinite values; the model is damaged: train or save it again"
            )
    ready = net.state_dict()  # with the versions of its layers, which a file need not have
    ready.update(given)
    try:
        net.load_state_dict(ready, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the weights do not load into the architecture ({error}); check --arch") from error
    return net


def _implied(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values for names that a file may leave out."""
    shared = {own[name].data_ptr(): value for name, value in tensors.items() if name in own}
    shared.pop(0, None)  # of tensors without elements
    missing = own.keys() - tensors.keys()
    counters = {name: own[name] for name in missing if name.endswith("num_batches_tracked")}
    return counters | {
        name: shared[own[name].data_ptr()] for name in missing if own[name].data_ptr() in shared
    }


def _check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    problems = [
        f"{name} is {_shape(given[name])} in the file, {_shape(own[name])} in the architecture"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    if len(problems) > _SHOWN:
        problems = [*problems[:_SHOWN], f"{len(problems) - _SHOWN} more shapes differ"]
    problems += _listed("missing in the file", [name for name in own if name not in given])
    problems += _listed("not in the architecture", [name for name in given if name not in own])
    if problems:
        raise ModelError(f"the weights do not fit: {'; '.join(problems)}; check --arch and --arch-kw")


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"] if names else []


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a single number"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def outputs(
    net: nn.Module, shape: tuple[int, int, int], preprocessing: Preprocessing
) -> Float[Tensor, "n classes"]:
    """What the network returns for two mid-grey and six random images of a shape (c, h, w), in eval mode.

    Raises ModelError if it fails on them, or does not return at least two finite numbers for each.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.full((2, *shape), 0.5), torch.rand(6, *shape, generator=generator)])
    mean, std = (x.new_tensor(v).reshape(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    if len({mean.shape[1], std.shape[1]} - {1, shape[0]}):
        wanted = f"one value, or one per channel ({shape[0]})"
        raise ModelError(f"--mean has {mean.shape[1]} values and --std {std.shape[1]}, wanted {wanted}")
    try:
        with torch.no_grad():
            out = copy.deepcopy(net).eval()((x - mean) / std)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        size = "×".join(map(str, shape))
        raise ModelError(
            f"the network fails on images of shape {size} ({reason}); {_advice(net, shape[0])}"
        ) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x) or out.shape[1] < 2:
        got = _shape(out) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"for {len(x)} images the network returned {got}, wanted {len(x)}×classes (two or more); "
            "give a classifier that returns one logit per class"
        )
    if not bool(out.isfinite().all()):
        raise ModelError(
            "the network returns NaN or infinite values for plain images; check --mean and --std"
        )
    return out.float()


def _advice(net: nn.Module, channels: int) -> str:
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != channels:
        wants = first.in_channels
        plural = "channel" if wants == 1 else "channels"
        return f"the model wants {wants} {plural}, the images have {channels}; use --channels {wants}"
    return "check --size, --channels and --arch-kw"


def are_probabilities(out: Float[Tensor, "n classes"]) -> bool:
    """Whether all rows lie in [0, 1] and sum to 1, within 0.001, so are no logits."""
    return bool((out >= 0).all() and ((out.sum(1) - 1).abs() < 1e-3).all())


def class_names(names: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """Names of the data's classes, for a model with so many outputs.

    Where the names are the classes' own numbers, the data may lack some. Else raises DataError.
    """
    numbers = all(name.isdecimal() and int(name) == i for i, name in enumerate(names))
    if len(names) > classes or (len(names) < classes and not numbers):
        raise DataError(
            f"the data have {len(names)} classes ({', '.join(names[:_SHOWN])}...), the model has {classes}; "
            "give data with the classes the model was trained on"
        )
    return (*names, *(str(i) for i in range(len(names), classes)))
