"""Where the paper's data sets come from, and fetching those that may be fetched."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
from PIL import Image

from detrigger.errors import DataError, OutputError
from detrigger.save import write_atomically

ORIGIN = {
    "mnist": "the four files of MNIST, https://ossci-datasets.s3.amazonaws.com/mnist/, as one .npz with "
    "x_train, y_train, x_test, y_test (uint8)",
    "lfw": "Labeled Faces in the Wild, deep-funneled, https://vis-www.cs.umass.edu/lfw/, the people with two "
    "images or more, cropped to the middle 150×150 pixels and made 112×112, as a .zip of lfw112/NAME/*.jpg",
    "aid": "AID, https://captain-whu.github.io/AID/, made 128×128, as a .zip of aid128/CLASS/*.jpg",
    "dota": "DOTA 1.0, https://captain-whu.github.io/DOTA/dataset.html: images/NAME.png with "
    "labelTxt/NAME.txt, in any folder",
}
"""Per data set, the first folder of its path: what to download from where."""
CACHE = "DETRIGGER_DATA"
"""Environment variable: folder of fetched data, by default ~/.cache/detrigger."""
CROPPED = slice(50, 200)
"""Rows and columns of the 250×250 pixels that hold the face."""


def ensure(path: str, root: Path | None) -> Path:
    """The file or folder at `path` below `root`; without a root in the cache, fetched if it is not there.

    Raises DataError, saying what to download from where and where to put it, if it is not there and cannot
    be fetched.
    """
    folder = root or Path(os.environ.get(CACHE) or Path.home() / ".cache" / "detrigger")
    wanted, name = folder / path, path.split("/")[0]
    if wanted.exists():
        return wanted
    why = ""
    if root is None and name in FETCHERS:
        try:
            content = FETCHERS[name](folder / "downloads")
            wanted.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(wanted, content)
            return wanted
        except (URLError, RuntimeError, ImportError, OSError, OutputError) as error:
            why = (
                f" (fetching it failed: {str(error).splitlines()[0] if str(error) else type(error).__name__})"
            )
    what = ORIGIN.get(name, "see the spec")
    raise DataError(f"no {wanted}{why}; download {what}; put it there, or give the folder as --data-root")


def _mnist(folder: Path) -> bytes:
    """By torchvision's own fetcher, which checks its checksums."""
    from torchvision.datasets import MNIST

    parts = {"train": MNIST(folder, train=True, download=True), "test": MNIST(folder, train=False)}
    arrays = {f"x_{name}": part.data.numpy() for name, part in parts.items()}
    arrays |= {f"y_{name}": part.targets.numpy().astype(np.uint8) for name, part in parts.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _lfw(folder: Path) -> bytes:
    """By scikit-learn's own fetcher, which checks its checksums; funneled, not deep-funneled."""
    try:
        from sklearn.datasets import fetch_lfw_people
    except ImportError as error:
        raise ImportError("scikit-learn is missing: pip install 'detrigger[paper]'") from error
    people = fetch_lfw_people(
        data_home=str(folder),
        funneled=True,
        color=True,
        min_faces_per_person=2,
        slice_=(CROPPED, CROPPED),
        resize=0.7467,  # to 112; 112 / 150 itself is rounded down to 111
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, (face, who) in enumerate(zip(people.images, people.target, strict=True)):
            file = io.BytesIO()
            Image.fromarray((255 * face).round().astype(np.uint8)).save(file, "JPEG", quality=90)
            name = str(people.target_names[who]).replace(" ", "_")
            archive.writestr(f"lfw112/{name}/{i:05}.jpg", file.getvalue())
    return buffer.getvalue()


FETCHERS: dict[str, Callable[[Path], bytes]] = {"mnist": _mnist, "lfw": _lfw}
"""Per data set, a function from a folder for downloads to the content of its file."""
