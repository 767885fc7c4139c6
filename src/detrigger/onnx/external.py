"""Tensors that an ONNX file keeps in other files, which may only be in its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from detrigger.errors import ModelError


def take_in(graph: Any, folder: Path) -> None:
    """Tensors outside of the file become tensors in it."""
    outside = [tensor for _, tensor in all_tensors(graph) if tensor.data_location == 1]
    claimed: dict[Path, int] = {}
    for tensor in outside:
        told = {entry.key: entry.value for entry in tensor.external_data}
        path = inside(told.get("location", ""), folder)
        try:
            size = path.stat().st_size
            start = int(told.get("offset", 0))
            length = int(told.get("length", size - start))
            claimed[path] = claimed.get(path, 0) + length
            if start < 0 or length < 0 or start + length > size or claimed[path] > size:
                raise ModelError(
                    f"its tensor {tensor.name!r} claims {length} bytes from {start} of {path.name}, which "
                    f"has {size}; copy both files again"
                )
            with path.open("rb") as file:
                file.seek(start)
                tensor.raw_data = file.read(length)
        except (OSError, ValueError) as error:
            raise ModelError(f"its external data {path.name!r} cannot be read ({error})") from error
        tensor.ClearField("external_data")
        tensor.data_location = 0


def inside(location: str, folder: Path) -> Path:
    """A file in the folder itself, not reached by other ways."""
    for kind in (PurePosixPath, PureWindowsPath):
        told = kind(location)
        if not location or told.is_absolute() or told.drive or ".." in told.parts:
            raise ModelError(
                f"its external data would be read from {location!r}, outside of its folder; not opened"
            )
    path = folder / location
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"its external data {location!r} is a link out of its folder, so it is not opened; "
            "put a copy of the file there"
        )
    if not path.is_file():
        raise ModelError(f"its external data {location!r} is missing; put that file beside the model")
    return path


def all_tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == 4:
                yield node.output[0] if node.output else "", attribute.t
