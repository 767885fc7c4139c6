"""Data and model agree on which class is which: by name where both have names, else as the caller says."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import torch

from detrigger.errors import UsageError
from detrigger.images import Images

_SHOWN = 4


def renumbered(images: Images, order: Sequence[int], names: tuple[str, ...]) -> Images:
    """The images with class i as class order[i], which names[order[i]] is the name of."""
    y = torch.tensor(list(order), device=images.y.device)[images.y]
    digest = hashlib.sha256(f"{images.sha256}{tuple(order)}".encode()).hexdigest()
    return dataclasses.replace(images, y=y, names=names, sha256=digest if images.sha256 else "")


def as_told(images: Images, names: tuple[str, ...]) -> Images:
    """The images with their classes in this order, which is that of the model's outputs.

    Raises UsageError unless these are the names of the data's classes, each once; there may be more.
    """
    missing = [name for name in images.names if name not in names]
    if missing or len(set(names)) < len(names):
        wrong = f"lacks {missing[0]!r}" if missing else "has a name twice"
        raise UsageError(
            f"--class-order {wrong}; give each class of the data once, in the order of the outputs"
        )
    return renumbered(images, [names.index(name) for name in images.names], names)


def as_named(images: Images, names: tuple[str, ...]) -> tuple[Images, str]:
    """The images with classes in the order of the model's names, where all are found; and what was done."""
    if not names or images.names == names:
        return images, ""
    if all(name.isdecimal() for name in images.names):
        if len(images.names) > len(names):
            return images, ""
        whole = dataclasses.replace(images, names=names)
        return whole, "the data number their classes; the names are the model's"
    places = _places(names)
    found = [places.get(_plain(name), -1) for name in images.names]
    if -1 in found or len(set(found)) < len(found):
        return images, (
            f"the model calls its classes {', '.join(names[:_SHOWN])} and so on, the data do not; the "
            "order of the data is taken to be the model's"
        )
    return renumbered(images, found, names), "classes are in the model's order, by their names"


def _places(names: tuple[str, ...]) -> dict[str, int]:
    """Where each name stands, also by the first of several synonyms, if that is only one's."""
    whole = {_plain(name): i for i, name in enumerate(names)}
    firsts = [_plain(name.partition(",")[0]) for name in names]
    return {first: i for i, first in enumerate(firsts) if firsts.count(first) == 1} | whole


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
