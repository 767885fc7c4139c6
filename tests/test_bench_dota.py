"""DOTA as it is released: labels, crops, windows."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from detrigger.bench import dota
from detrigger.bench.paper_data import PaperData, divided
from detrigger.errors import DataError

LABELS = """imagesource:GoogleEarth
gsd:0.14
10 10 30 10 30 20 10 20 plane 0
60 50 70 60 60 70 50 60 ship 1
80 80 82 80 82 82 80 82 ship 0
"""


def scene(folder: Path, name: str, labels: str, *, size: tuple[int, int] = (100, 100)) -> None:
    for part in ("images", "labelTxt"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, (0, 0, 255))
    picture.paste((255, 0, 0), (10, 10, 30, 20))
    picture.save(folder / "images" / f"{name}.png")
    (folder / "labelTxt" / f"{name}.txt").write_text(labels)


def test_objects_are_cut_out_in_squares_and_small_ones_left_out(tmp_path: Path) -> None:
    scene(tmp_path / "train", "P1", LABELS)
    found = dota.crops(tmp_path, 26)
    assert found.kinds == ("plane", "ship")
    assert found.scenes == ("train/images/P1.png",) * 2
    assert tuple(found.x.shape) == (2, 3, 26, 26)
    plane = found.x[0]
    red = plane[0] == 255  # 20 × 10 pixels of a crop of 26 (1.3 × 20), one to one
    assert int(red.sum()) == 200
    assert red.nonzero().amin(0).tolist() == [8, 3]


def test_an_object_at_the_edge_is_padded_with_black(tmp_path: Path) -> None:
    scene(tmp_path, "P1", "0 0 20 0 20 20 0 20 plane 0")
    (crop,) = dota.crops(tmp_path, 26).x
    assert not crop[:, :3].any() and not crop[:, :, :3].any()
    assert crop[2, 5, 5] == 255


def test_windows_have_the_commonest_class_of_what_is_in_them(tmp_path: Path) -> None:
    lines = "".join(f"{x} 60 {x + 4} 60 {x + 4} 64 {x} 64 ship 0\n" for x in (50, 60, 90))
    scene(tmp_path, "P1", LABELS + lines)
    scene(tmp_path, "P2", LABELS, size=(40, 40))
    found = dota.tiles(tmp_path, 50, 50)
    assert found.kinds == ("plane", "ship")
    assert tuple(found.x.shape) == (2, 3, 50, 50)
    assert found.x[0, 0, 12, 12] == 255
    assert found.scenes == ("images/P1.png",) * 2


def test_labels_in_shares_of_the_picture_are_read_too(tmp_path: Path) -> None:
    scene(tmp_path, "P1", "")
    (tmp_path / "images" / "val").mkdir()
    (tmp_path / "labels" / "val").mkdir(parents=True)
    (tmp_path / "images" / "P1.png").rename(tmp_path / "images" / "val" / "P1.png")
    (tmp_path / "labels" / "val" / "P1.txt").write_text("4 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2\n")
    (one,) = dota.scenes(tmp_path)
    (thing,) = one.things((100, 100))
    assert thing.kind == "tennis-court"
    assert thing.box() == pytest.approx((10, 10, 30, 20))


def test_only_classes_that_two_scenes_have_are_measured_on_windows(tmp_path: Path) -> None:
    for name in ("P1", "P2", "P3", "P4"):
        scene(tmp_path / "dota", name, "10 10 30 10 30 20 10 20 plane 0\n60 50 70 60 60 70 50 60 ship 1\n")
    scene(tmp_path / "dota", "P5", "10 10 30 10 30 20 10 20 bridge 0")
    plan = PaperData(kind="tiles", path="dota", size=50, stride=50, test=0.5)
    parts = divided(plan, tmp_path)
    assert parts.train.names == ("plane", "ship")
    assert [len(p.y) for p in (parts.train, parts.scanner, parts.judge)] == [4, 2, 2]
    crops = divided(PaperData(kind="objects", path="dota", size=16, test=0.5), tmp_path)
    assert crops.train.names == ("bridge", "plane", "ship")
    assert sorted(crops.train.y.tolist())[0] == 0  # the one bridge is trained on


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("1 2 3 4 5 6 7 8 boat 0", "no class 'boat'"),
        ("1 2 3 4 5 6 7 eight plane 0", "not an object of DOTA"),
        ("15 0 0 1 0 1 1 0 1", "not an object"),
    ],
)
def test_labels_that_are_not_understood_are_said(labels: str, message: str, tmp_path: Path) -> None:
    scene(tmp_path, "P1", labels)
    with pytest.raises(DataError, match=message):
        dota.crops(tmp_path, 16)


def test_a_folder_without_scenes_and_a_broken_picture_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images/NAME"):
        dota.scenes(tmp_path)
    scene(tmp_path, "P1", LABELS)
    with pytest.raises(DataError, match="nothing of the wanted size"):
        dota.tiles(tmp_path, 800, 400)
    (tmp_path / "images" / "P1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="is not a picture"):
        dota.crops(tmp_path, 16)
