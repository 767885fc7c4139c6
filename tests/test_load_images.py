from __future__ import annotations

import resource
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import weights
from PIL import Image
from safetensors.torch import save_file

from detrigger.errors import DataError, UsageError
from detrigger.load import load_images, load_trigger
from detrigger.save import save_trigger
from detrigger.trigger.patch import PatchTrigger


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4), value: Any = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def test_class_folders_become_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "1.png", value=(255, 0, 51))
    picture(tmp_path / "cat" / "x" / "2.png", value=(0, 102, 0))
    picture(tmp_path / "cat" / ".hidden.png")
    picture(tmp_path / ".git" / "3.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    found = load_images(tmp_path)
    assert found.names == ("cat", "dog") and found.y.tolist() == [0, 1] and found.shape == (3, 4, 6)
    torch.testing.assert_close(found.x[:, :, 0, 0], torch.tensor([[0, 0.4, 0], [1, 0, 0.2]]))
    assert found.path == str(tmp_path) and len(found.sha256) == 64
    assert load_images(tmp_path).sha256 == found.sha256
    picture(tmp_path / "dog" / "1.png", value=(255, 0, 52))
    assert load_images(tmp_path).sha256 != found.sha256


def test_folders_named_by_whole_numbers_are_labels(tmp_path: Path) -> None:
    for name in ("0", "1", "10", "2"):
        picture(tmp_path / name / "a.png", mode="L", value=int(name))
    found = load_images(tmp_path)
    assert (found.x[:, 0, 0, 0] * 255).round().int().tolist() == found.y.tolist() == [0, 1, 10, 2]
    assert found.names == tuple(str(i) for i in range(11))
    picture(tmp_path / "00" / "a.png")
    with pytest.raises(DataError, match="same class number"):
        load_images(tmp_path)


def test_images_are_grey_only_if_all_are(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", mode="L", value=51)
    picture(tmp_path / "a" / "2.png", mode="1", value=1)
    picture(tmp_path / "b" / "3.png", mode="I;16", value=13107)
    found = load_images(tmp_path)
    assert found.shape[0] == 1
    torch.testing.assert_close(found.x[:, 0, 0, 0], torch.tensor([0.2, 1.0, 0.2]))
    assert load_images(tmp_path, channels=3).shape[0] == 3
    picture(tmp_path / "b" / "4.png", mode="RGB", value=(255, 0, 0))
    picture(tmp_path / "b" / "5.png", mode="RGBA", value=(0, 255, 0, 9))
    picture(tmp_path / "b" / "6.png", mode="P", value=0)
    mixed = load_images(tmp_path)
    torch.testing.assert_close(mixed.x[0, :, 0, 0], torch.full((3,), 0.2))
    assert mixed.x[4, :, 0, 0].tolist() == [0, 1, 0]
    grey = load_images(tmp_path, channels=1)
    torch.testing.assert_close(grey.x[3, :, 0, 0], torch.tensor([0.299]))


def test_images_of_differing_size_need_one(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a" / "1.png"), picture(tmp_path / "b" / "2.png", size=(8, 4))
    with pytest.raises(DataError, match=f"{a} is 6×4 pixels, {b} is 8×4; give one size with --size"):
        load_images(tmp_path)
    assert load_images(tmp_path, size=4).shape == (3, 4, 4)


def test_resizing_keeps_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12), dtype=np.uint8)
    pixels[:, 4:8] = 255
    for name in "ab":
        picture(tmp_path / name / "1.png")
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    assert load_images(tmp_path, size=4).x.min() == 1
    half = load_images(tmp_path, size=2, interpolation="nearest").x
    assert half.shape == (2, 1, 2, 2) and half.min() == 1
    for method in ("bilinear", "bicubic"):
        up = load_images(tmp_path, size=8, interpolation=method).x
        assert up.shape[2:] == (8, 8) and up.min() >= 0 and up.max() <= 1


def test_a_limit_draws_by_seed(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(8):
            picture(tmp_path / name / f"{i}.png", value=(i, i, i))
    few = load_images(tmp_path, limit_per_class=3, seed=1)
    assert few.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(few.x, load_images(tmp_path, limit_per_class=3, seed=1).x)
    drawn = {load_images(tmp_path, limit_per_class=3, seed=s).sha256 for s in range(5)}
    assert len(drawn) > 1


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        load_images(tmp_path / "none")
    with pytest.raises(DataError, match="has no folders in it; wanted one folder of images per class"):
        load_images(tmp_path)
    picture(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="has a single class, 'a'"):
        load_images(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"b holds no images"):
        load_images(tmp_path)
    for split in ("train", "val"):
        picture(tmp_path / "all" / split / "a" / "1.png")
    with pytest.raises(DataError, match="holds splits, not classes"):
        load_images(tmp_path / "all")


def test_corrupt_images_are_counted_and_named(tmp_path: Path) -> None:
    good = picture(tmp_path / "a" / "1.png", size=(64, 64), value=(3, 4, 5))
    bad = picture(tmp_path / "b" / "2.png", size=(64, 64))
    (tmp_path / "b" / "3.jpg").write_bytes(b"not an image")
    bad.write_bytes(good.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"2 of 3 images cannot be read, the first is {bad}") as error:
        load_images(tmp_path)
    assert "\n" not in str(error.value)


def test_only_common_kinds_of_images_are_decoded(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.pcx").rename(tmp_path / "b" / "2.png")
    with pytest.raises(DataError, match="1 of 2 images cannot be read"):
        load_images(tmp_path)


@pytest.mark.parametrize("limit", [10, 20])
def test_images_that_unpack_to_too_much_are_refused(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow warns above it, raises above twice that
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.png")
    with pytest.raises(DataError, match=f"would unpack to more than {limit} pixels"):
        load_images(tmp_path)


def test_an_image_of_fifty_thousand_by_fifty_thousand_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path,
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(bomb + chunk(b"IEND", b""))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="would unpack to more than 89478485 pixels"):
        load_images(tmp_path, size=32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kilobytes


def test_options_that_do_not_exist_are_usage_errors(tmp_path: Path) -> None:
    for options in ({"size": 0}, {"channels": 2}, {"interpolation": "magic"}, {"limit_per_class": 0}):
        with pytest.raises(UsageError):
            load_images(tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("header", ["{'a': (", "{[]: 1}", "{'descr': '|u1', 'fortran_order': False}"])
def test_arrays_with_damaged_headers_are_refused(header: str, tmp_path: Path) -> None:
    line = header.encode().ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(36)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
        packed.writestr("x.npy", array)
        packed.writestr("y.npy", array)
    with pytest.raises(DataError, match="cannot read") as error:
        load_images(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_a_thin_strip_is_not_blown_up(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / name / "1.png", size=(600, 1))
    with pytest.raises(DataError, match="600×1 pixels, too long"):
        load_images(tmp_path, size=32)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz_in_every_layout(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    y = np.array([0, 1, 2, 1])
    path = tmp_path / "d.npz"
    wanted = torch.from_numpy(x).movedim(3, 1) / 255
    for given in (x, x.transpose(0, 3, 1, 2), (x / 255).astype(np.float32), (x / 255)):
        found = load_images(npz(path, x=given, y=y))
        torch.testing.assert_close(found.x, wanted)
        assert found.y.tolist() == [0, 1, 2, 1] and found.names == ("0", "1", "2")
    assert load_images(npz(path, x=x[..., 0], y=y)).shape == (1, 5, 6)
    assert load_images(npz(path, x=x, y=y, names=np.array([], dtype=str))).names == ("0", "1", "2")
    both = load_images(npz(path, x=x[:, :3], y=y.astype(np.float64)[:, None]))  # 3×6×3: channels last
    torch.testing.assert_close(both.x, wanted[:, :, :3])
    named = load_images(npz(path, x=x, y=y, names=np.array(["a", "b", "c", "d"])), size=4, channels=1)
    assert named.names == ("a", "b", "c", "d") and named.shape == (1, 4, 4)
    assert named.path == str(path) and len(named.sha256) == 64
    assert load_images(path, limit_per_class=1).y.sort().values.tolist() == [0, 1, 2]


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    x, y = np.zeros((3, 4, 4), dtype=np.uint8), np.arange(3)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"x": np.array([{}] * 3), "y": y}, "array of Python objects, which is not opened"),
        ({"x": x}, "has no array y, only x"),
        ({"a": x, "b": y}, "has no array x or y, only a, b"),
        ({"x": x, "y": y[:2]}, "x has 3 images, y has 2 labels"),
        ({"x": x, "y": y - 1}, "y holds the label -1, wanted whole numbers"),
        ({"x": x, "y": y + 0.5}, "y holds the label 0.5"),
        ({"x": x, "y": np.array([0, 1, np.nan])}, "y holds the label nan"),
        ({"x": x, "y": y * 10**12}, "y holds the label 1000000000000"),
        ({"x": x, "y": np.array(["a", "b", "c"])}, "wanted one whole number per image"),
        ({"x": x.astype(np.int64), "y": y}, "x is of type int64, wanted uint8"),
        ({"x": x.astype(np.float32) + 9, "y": y}, "pixels range from 9 to 9"),
        ({"x": np.zeros((3, 4, 4, 2), np.uint8), "y": y}, "x is 3×4×4×2, wanted"),
        ({"x": x[:0], "y": y[:0]}, "no images"),
        ({"x": x, "y": y, "names": np.array(["a", "b"])}, "wanted one text per class for labels up to 2"),
    ]
    for arrays, message in cases:
        with pytest.raises(DataError, match=message) as error:
            load_images(npz(tmp_path / "d.npz", **arrays))
        assert "\n" not in str(error.value)


def test_damaged_npz_and_other_files_are_not_data(tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.arange(2)).read_bytes()
    for cut in (data[:-30], data[: len(data) // 2], data.replace(b"descr", b"dexcr")):
        (tmp_path / "d.npz").write_bytes(cut)
        with pytest.raises(DataError):
            load_images(tmp_path / "d.npz")
    with pytest.raises(DataError, match="is a safetensors file; wanted a folder"):
        load_images(weights(tmp_path / "m"))


def test_a_trigger_comes_back_with_its_target(tmp_path: Path) -> None:
    trigger = PatchTrigger(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4))
    save_trigger(trigger, tmp_path / "t.safetensors", target=3, family="patch")
    loaded, metadata = load_trigger(tmp_path / "t.safetensors")
    assert metadata == {"family": "patch", "target": "3"}
    assert all(torch.equal(loaded.tensors()[k], v) for k, v in trigger.tensors().items())


def test_files_that_are_no_triggers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no trigger file"):
        load_trigger(tmp_path / "none")
    with pytest.raises(DataError, match="is of family '', wanted a trigger of one of patch"):
        load_trigger(weights(tmp_path / "m"))
    (tmp_path / "m").write_bytes(b"hello")
    with pytest.raises(DataError, match="wanted a saved trigger"):
        load_trigger(tmp_path / "m")
    save_file({"masks": torch.zeros(1, 1, 2, 2)}, tmp_path / "m", metadata={"family": "patch"})
    with pytest.raises(DataError, match="patterns"):
        load_trigger(tmp_path / "m")
