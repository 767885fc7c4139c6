"""Flags that name a model and its data, and how both are read."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter, Token, validators

from detrigger.cli.console import note
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.load import (
    as_named,
    as_told,
    load_classifier,
    load_images,
    metadata,
    parse_arguments,
    with_best_preprocessing,
)
from detrigger.model import Classifier, Preprocessing


def _numbers(_kind: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    """`--mean 0.5,0.4,0.4` as well as `--mean 0.5 0.4 0.4`."""
    return tuple(float(part) for token in tokens for part in token.value.split(",") if part.strip())


def _architecture(_kind: Any, tokens: Sequence[Token]) -> str:
    """A file of code is trusted because the user names it, which a file lying in a folder cannot do."""
    (token,) = tokens
    if token.source != "cli" and token.value.rpartition(":")[0].endswith(".py"):
        raise UsageError(
            f"arch in {token.source} is {token.value!r}, which is code; code is run only if --arch names it "
            "on the command line"
        )
    return token.value


Numbers = Annotated[
    tuple[float, ...], Parameter(negative_iterable="", consume_multiple=True, converter=_numbers)
]


@Parameter(name="*")
@dataclass(frozen=True)
class InputFlags:
    """How to read the model and the data."""

    data: Path
    """Clean labelled images: a folder of class folders, an .npz, a CSV or JSONL list, Parquet, WebDataset."""
    arch: Annotated[str, Parameter(converter=_architecture)] = ""
    """Architecture: timm:NAME, torchvision:NAME or path/to/file.py:factory (your own, trusted code)."""
    arch_kw: Annotated[tuple[str, ...], Parameter(negative_iterable="", consume_multiple=False)] = ()
    """Argument of the architecture as key=value (value read as JSON where it parses); repeat for more."""
    mean: Numbers = ()
    """Mean that the model wants subtracted from images in [0, 1]: one value, or one per channel as in
    0.5,0.4,0.4; by default as the model's files say, else 0, unless the usual one gives a clearly better
    accuracy."""
    std: Numbers = ()
    """Standard deviation that it wants them divided by, likewise."""
    size: int | None = None
    """Resize images to this many pixels (shorter side, then centre crop); by default as the model wants."""
    channels: Literal[1, 3] | None = None
    """Read images as grey (1) or colour (3); by default as they are."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """How to resize; by default as the model's files say, else bilinear."""
    class_order: str = ""
    """Names of the data's classes in the order of the model's outputs: separated by commas, or a text file
    with one on each line; by default the order of the data, or the model's own where its files name them."""
    per_class: int | None = None
    """Use at most this many images of each class; by default as many as a scan can use, at most 5000 in
    all."""
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**31))] = 0
    """Of everything drawn at random; from 0."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def spelt(flags: InputFlags) -> str:
    """The flags as they would be written in a shell, but for --data and those that have their defaults."""
    given: list[str] = []
    for field in dataclasses.fields(flags):
        value, name = getattr(flags, field.name), f"--{field.name.replace('_', '-')}"
        if field.name == "data" or value == field.default:
            continue
        if field.name == "arch_kw":
            given += [word for each in value for word in (name, each)]
        else:
            given += [name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(given)


def read_inputs(model: Path, flags: InputFlags) -> tuple[Classifier, Images]:
    """The classifier and its images, checked, on the device."""
    told = metadata(model)
    images = load_images(
        flags.data,
        size=flags.size or told.size,
        channels=flags.channels,
        interpolation=flags.interpolation or told.interpolation,
        kept=1.0 if flags.size else told.kept,
        limit_per_class=flags.per_class,
        enough=True,
        seed=flags.seed,
    )
    if flags.class_order:
        images, order = (
            as_told(images, _names(flags.class_order)),
            "classes are in the order of --class-order",
        )
    else:
        images, order = as_named(images, told.classes)
    for sentence in images.notes:
        note(sentence)
    classifier = load_classifier(
        model,
        flags.arch,
        parse_arguments(list(flags.arch_kw)),
        shape=images.shape,
        names=images.names,
        preprocessing=_preprocessing(flags, images.shape[0]),
    )
    if not (flags.mean or flags.std or told.preprocessing):
        classifier = with_best_preprocessing(classifier, images, flags.arch)
    if order:
        origin = dataclasses.replace(classifier.origin, notes=(*classifier.origin.notes, order))
        classifier = dataclasses.replace(classifier, origin=origin)
    chosen = _device(flags.device)
    return classifier.to(chosen), images.to(chosen)


def _names(text: str) -> tuple[str, ...]:
    """Class names from a flag or the file it names."""
    try:
        lines = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    except (OSError, ValueError) as error:
        raise UsageError(f"--class-order {text} cannot be read as text ({error})") from error
    return tuple(name.strip() for name in lines if name.strip())


def _preprocessing(flags: InputFlags, channels: int) -> Preprocessing | None:
    """What the flags say; None if they say nothing."""
    if not flags.mean and not flags.std:
        return None
    default = Preprocessing()
    mean, std = flags.mean or default.mean, flags.std or default.std
    for name, values in {"--mean": mean, "--std": std}.items():
        if len(values) not in (1, channels):
            wanted = "one" if channels == 1 else f"one, or one per channel ({channels})"
            raise UsageError(f"{name} has {len(values)} values, wanted {wanted}; check --channels")
        if not all(map(math.isfinite, values)):
            raise UsageError(f"{name} is {', '.join(map(str, values))}, wanted finite numbers")
    if min(std) <= 0:
        raise UsageError(f"--std must be positive, got {min(std)}")
    return Preprocessing(mean, std)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UsageError(f"{name} is not available on this machine; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"no device {name!r}; use auto, cpu, cuda or cuda:N")
    return device
