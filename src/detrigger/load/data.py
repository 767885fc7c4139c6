"""Labelled images from whatever people have them in, told by content; at most what is wanted is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detrigger.errors import DataError, UsageError
from detrigger.files.sniff import sniff
from detrigger.images import LEAST, Images, drawn
from detrigger.load import folder, manifest, npz, parquet, pictures, pixels, webdataset
from detrigger.load.pictures import Listing

ENOUGH = 5000
"""Images that a scan can make use of."""
ENOUGH_BYTES = 1 << 30
"""What they may take in memory."""
WANTED = (
    "a folder of class folders, an .npz with x and y, a CSV or JSONL list of path and label, Parquet, or "
    "WebDataset .tar"
)


def load_images(
    path: Path | str,
    *,
    size: int | None = None,
    channels: int | None = None,
    interpolation: str = "bilinear",
    kept: float = 1.0,
    limit_per_class: int | None = None,
    enough: bool = False,
    seed: int = 0,
) -> Images:
    """Labelled images in [0, 1] from a file or folder.

    That is: a folder of class folders; a Hugging Face image folder, with metadata.csv or metadata.jsonl; a
    CSV (with a heading) or JSONL list of path and label; an `.npz` with arrays x and y; Parquet files as on
    the Hugging Face hub; WebDataset `.tar` archives; or a folder of the last two.

    With `size`, the central square, of the share `kept` of the shorter side, becomes that many pixels;
    without, all must be of one size. `channels` 1 or 3 converts. Of each class at most `limit_per_class` are
    drawn, by `seed`; without it, `enough` draws not more than a scan can use. Only what was drawn is decoded.
    A few unreadable images are left out, which `Images.notes` tells.
    Raises DataError for data that cannot be read or do not go together, UsageError for unknown options.
    """
    path = Path(path)
    pixels.check_options(size, channels, interpolation)
    if limit_per_class is not None and limit_per_class < 1:
        raise UsageError(f"a limit of {limit_per_class} images per class leaves none; give 1 or more")
    if not path.exists():
        raise DataError(f"there is no file or folder {path}; check the path")

    def prepare(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n new_c new_h new_w"]:
        return pixels.with_channels(pixels.resized(x, size, interpolation, kept), channels)

    def chosen(labels: Sequence[int], one: Callable[[], Tensor]) -> tuple[list[int], str]:
        limit = None
        if enough and limit_per_class is None:
            limit = max(2 * LEAST, min(ENOUGH, ENOUGH_BYTES // one().nbytes))
        positions = drawn(torch.as_tensor(labels), per_class=limit_per_class, in_all=limit, seed=seed)
        return positions.tolist(), _told(len(positions), len(labels), limit)

    if not path.is_dir() and sniff(path).name == "npz":
        found = Images(*npz.read(path))
        positions, told = chosen(found.y.tolist(), lambda: prepare(found.x[:1]))
        found = found.where(torch.tensor(positions))
        return _images(prepare(found.x), found.y, found.names, path, told)
    listing = _listing(path)
    positions, told = chosen(listing.labels, lambda: _first(listing, prepare))
    x, y, broken = pictures.decoded(listing, positions, prepare)
    return _images(x, y, listing.names, path, told, broken)


def _listing(path: Path) -> Listing:
    if not path.is_dir():
        return _file(path)
    for name in manifest.METADATA:
        if (path / name).is_file():
            return manifest.listed(path / name, name.rpartition(".")[2])
    for ending, listed in (("parquet", parquet.listed), ("tar", webdataset.listed)):
        if files := sorted(path.glob(f"*.{ending}")):
            splits = sorted({file.name.partition("-")[0] for file in files})
            if len(splits) > 1:
                raise DataError(
                    f"{path} holds {len(splits)} sets, {splits[0]} and {splits[1]}; give one file, or a "
                    "folder with the files of one"
                )
            return listed(files)
    return folder.listed(path)


def _file(path: Path) -> Listing:
    kind = sniff(path)
    if kind.name in {"csv", "jsonl"}:
        return manifest.listed(path, kind.name)
    if kind.name == "parquet":
        return parquet.listed([path])
    if kind.name == "tar":
        return webdataset.listed([path])
    raise DataError(f"{path} is {kind.description}; wanted {WANTED}")


def _first(listing: Listing, prepare: pictures.Prepare) -> Tensor:
    """Some image that can be read, for its size."""
    for position in range(min(LEAST, len(listing.labels))):
        try:
            return prepare(pictures.decode(next(listing.read([position]))))
        except pictures.UNREADABLE:
            continue
    return torch.empty(1)


def _told(drawn: int, there: int, limit: int | None) -> str:
    if limit is None or drawn == there:
        return ""
    return f"{drawn} of {there} images were drawn, enough for a scan; --per-class draws as many as you say"


def _images(
    x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], names: tuple[str, ...], path: Path, *notes: str
) -> Images:
    x = x.contiguous()
    digest = hashlib.sha256(repr(tuple(x.shape)).encode())
    digest.update(x.numpy().data)
    digest.update(y.contiguous().numpy().data)
    return Images(x, y, names, str(path), digest.hexdigest(), tuple(filter(None, notes)))
