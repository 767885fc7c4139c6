"""Lists, Parquet, WebDataset: the same images whatever they come in, and nothing from outside."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from detrigger.errors import DataError, UsageError
from detrigger.load import data, load_images

LABELS = ("dog", "cat", "dog", "eel")
NAMES = ("cat", "dog", "eel")


def encoded(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255)).save(buffer, "png")
    return buffer.getvalue()


def files(folder: Path) -> list[str]:
    """One image per label, red as its position says; their names."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for i in range(len(LABELS)):
        (folder / "in" / f"{i}.png").write_bytes(encoded(i))
    return [f"in/{i}.png" for i in range(len(LABELS))]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def table(path: Path, *, name: str = "image", names: tuple[str, ...] = (), **columns: Any) -> Path:
    """Parquet as `datasets` writes it, two rows to a group."""
    content: dict[str, Any] = {
        name: [{"bytes": encoded(i), "path": None} for i in range(len(LABELS))],
        **columns,
    }
    made = pyarrow.table(content)
    if names:
        note = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(note)})
    parquet.write_table(made, path, row_group_size=2)
    return path


def packed(path: Path, content: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(ending: str, label: Callable[[str], str]) -> dict[str, bytes]:
    content = {}
    for i, name in enumerate(LABELS):
        content[f"shard/{i}.PNG"] = encoded(i)
        content[f"shard/{i}.{ending}"] = label(name).encode()
    return content


def csv_list(folder: Path) -> Path:
    rows = zip(files(folder), LABELS, strict=True)
    path = folder / "list.txt"
    path.write_text("\ufeff" + "path;label\r\n" + "\r\n".join(";".join(row) for row in rows))
    return path


def json_list(folder: Path) -> Path:
    rows = [{"label": label, "path": file} for file, label in zip(files(folder), LABELS, strict=True)]
    return lines(folder / "list.json", rows)


def image_folder(folder: Path) -> Path:
    rows = [{"file_name": file, "label": label} for file, label in zip(files(folder), LABELS, strict=True)]
    lines(folder / "metadata.jsonl", rows)
    return folder


def hub_parquet(folder: Path) -> Path:
    return table(folder / "a", label=[NAMES.index(label) for label in LABELS], names=NAMES)


def text_parquet(folder: Path) -> Path:
    table(folder / "train-00000-of-00001.parquet", label=list(LABELS))
    return folder


def tar_with_names(folder: Path) -> Path:
    return packed(folder / "a", samples("cls", lambda name: f" {name}\n"))


def tars_with_json(folder: Path) -> Path:
    content = list(samples("json", lambda name: json.dumps({"label": name})).items())
    packed(folder / "set-0.tar", dict(content[:4]))
    packed(folder / "set-1.tar", dict(content[4:]))
    return folder


FORMATS = [csv_list, json_list, image_folder, hub_parquet, text_parquet, tar_with_names, tars_with_json]


@pytest.mark.parametrize("write", FORMATS)
def test_the_same_images_come_out_of_every_format(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    found = load_images(path)
    assert found.names == NAMES and [NAMES[y] for y in found.y] == list(LABELS)
    assert (found.x[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 3]
    assert found.shape == (3, 4, 6) and found.path == str(path) and not found.notes
    assert load_images(path, size=2, channels=1, limit_per_class=1, seed=3).shape == (1, 2, 2)


@pytest.mark.parametrize("write", FORMATS)
def test_only_what_was_drawn_is_decoded(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    decoded: list[object] = []
    decode = data.pictures.decode
    monkeypatch.setattr(data.pictures, "decode", lambda source: [decoded.append(source), decode(source)][1])
    assert len(load_images(path, limit_per_class=1)) == len(decoded) == 3


def test_enough_is_drawn_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "d", label=[0, 0, 0, 1])
    whole = load_images(tmp_path / "d")
    rows = {"label": [i % 2 for i in range(40)], "image": [encoded(i) for i in range(40)]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "e", row_group_size=7)
    monkeypatch.setattr(data, "ENOUGH_BYTES", 12 * whole.x[0].nbytes)
    few = load_images(tmp_path / "e", enough=True)
    assert few.y.bincount().tolist() == [6, 6]
    assert few.notes[0].startswith("12 of 40 images were drawn, enough for a scan; --per-class")
    assert load_images(tmp_path / "e", enough=True, limit_per_class=9).y.bincount().tolist() == [9, 9]
    assert len(load_images(tmp_path / "d", enough=True)) == 4
    monkeypatch.setattr(data, "ENOUGH", 10)
    assert load_images(tmp_path / "e", enough=True).y.bincount().tolist() == [5, 5]


def test_a_few_unreadable_images_are_left_out_and_said(tmp_path: Path) -> None:
    rows = {
        "label": [i % 2 for i in range(40)],
        "image": [b"no image" if i == 7 else encoded(i) for i in range(40)],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "d")
    found = load_images(tmp_path / "d")
    assert len(found) == 39 and 7 not in (found.x[:, 0, 0, 0] * 255).round().tolist()
    assert found.notes[0].startswith(f"1 of 40 images cannot be read, the first is {tmp_path / 'd'}:7 (")
    rows["image"][8:10] = [b"", None]  # type: ignore[list-item]
    parquet.write_table(pyarrow.table(rows), tmp_path / "d")
    with pytest.raises(DataError, match="3 of 40 images cannot be read"):
        load_images(tmp_path / "d")


OUTSIDE = ("../secret.png", "/etc/secret.png", "a/../../secret.png", "..\\secret.png", "C:\\secret.png")


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_the_folder_is_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    files(folder)
    (tmp_path / "secret.png").write_bytes(encoded(9))
    listed = lines(folder / "list", [{"path": "in/0.png", "label": 0}, {"path": name, "label": 1}])
    archive = packed(tmp_path / "t", {name: encoded(0), f"{name[:-4]}.cls": b"0"})
    for path in (listed, archive):
        with pytest.raises(DataError, match="leads out of the data's folder, which is refused"):
            load_images(path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    files(folder)
    (tmp_path / "secret.png").write_bytes(encoded(9))
    (folder / "in" / "0.png").unlink()
    (folder / "in" / "0.png").symlink_to(tmp_path / "secret.png")
    (folder / "in" / "1.png").unlink()
    (folder / "in" / "1.png").symlink_to("2.png")
    rows = [{"path": f"in/{i}.png", "label": i % 2} for i in (1, 2, 3)]
    assert len(load_images(lines(folder / "list", rows))) == 3
    with pytest.raises(DataError, match=r"in/0.png of .* is a link out of"):
        load_images(lines(folder / "list", [{"path": "in/0.png", "label": 0}, *rows]))
    with tarfile.open(tmp_path / "t", "w") as archive:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"'0\.png' is a link, which is refused"):
        load_images(tmp_path / "t")


LISTS: list[tuple[str, str]] = [
    ("path,label\n", "lists no images"),
    ("file,kind\na.png,b\n", "has no label .* only file, kind"),
    ("x,label\na.png,b\n", r"has no path \(path or file_name"),
    ("path,label\na.png\n", "entry 1 has None for label"),
    ("path,label\na.png,\n", "entry 1 has '' for label"),
    ("path,label\na.png,1\nb.png,01\n", "classes 01 and 1 are the same class number"),
    ("path,label\na.png,99999999999999999999999\nb.png,1\n", "wanted numbers below"),
    ('{"path": "a.png"}\n', "has no label"),
    ('{"path": "a.png", "label": 0.5}\n', "entry 1 has 0.5 for label"),
    ('{"path": ["a.png"], "label": 1}\n', r"entry 1 has \['a.png'\] for path"),
    ('{"path": "a.png", "label": true}\n', "entry 1 has True for label"),
    ('{"path": "a.png", \n', "cannot read .* as jsonl"),
    ('{"path": "a.png", "label": 1}\n[]\n', r"'\[\]' is not an object"),
    ('{"a":' * 9000, "cannot read .* as jsonl"),
    ('path,label\n"' + "a" * 200_000, "cannot read .* as csv"),
    ("path,label\na.png,b\nb.png,c\n", "2 of 2 images cannot be read, the first is a.png"),
]


@pytest.mark.parametrize(("text", "message"), LISTS)
def test_lists_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        load_images(tmp_path / "list")
    assert "\n" not in str(error.value)


TARS: list[tuple[dict[str, bytes], str]] = [
    ({"a.png": encoded(0)}, "a.png has no a.cls or a.json"),
    ({"a.cls": b"0"}, "holds no images"),
    ({"a.png": encoded(0), "a.cls": b""}, "a.cls holds no label"),
    ({"a.png": encoded(0), "a.json": b"{}"}, "a.json holds no label"),
    ({"a.png": encoded(0), "a.json": b'{"label": 0.5}'}, "a.json holds no label"),
    ({"a.png": encoded(0), "a.json": b'{"label"'}, "cannot read a.json"),
    ({"a.png": encoded(0), "a.cls": b"\xff"}, "cannot read a.cls"),
    ({"a.png": b"no image", "a.cls": b"0"}, "1 of 1 images cannot be read, the first is .*:a.png"),
]


@pytest.mark.parametrize(("content", "message"), TARS)
def test_archives_that_cannot_be_used(content: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        load_images(packed(tmp_path / "t", content))
    assert "\n" not in str(error.value)


def test_damaged_and_compressed_archives_are_refused(tmp_path: Path) -> None:
    content = samples("cls", str)
    whole = packed(tmp_path / "a", content).read_bytes()
    (tmp_path / "a").write_bytes(whole[: 512 + 20])
    with pytest.raises(DataError, match=r"ends within 'shard/0\.PNG'"):
        load_images(tmp_path / "a")
    (tmp_path / "d").mkdir()
    packed(tmp_path / "d" / "a.tar", content, "w:gz")
    with pytest.raises(DataError, match="if it is compressed, unpack it first"):
        load_images(tmp_path / "d")


def test_files_of_two_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table(tmp_path / f"{split}-00000-of-00001.parquet", label=[0, 1, 0, 1])
    with pytest.raises(DataError, match="holds 2 sets, test and train; give one file"):
        load_images(tmp_path)


def test_parquet_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"target": [0, 1, 0, 1]}, "has no column label or .*, only image, target"),
        ({"label": [0, 1, 0, 1], "name": "picture"}, "has no column image or img, only picture, label"),
        ({"label": [0, None, 0, 1]}, "row 1 has the label None"),
        ({"label": [0, -1, 0, 1]}, "row 1 has the label -1"),
        ({"label": [0.5, 1, 0, 1]}, "row 0 has the label 0.5"),
    ]
    for columns, message in cases:
        with pytest.raises(DataError, match=message):
            load_images(table(path, **columns))
    whole = table(path, label=[0, 1, 0, 1]).read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"cannot read .* as Parquet"):
        load_images(path)
    path.write_bytes(whole[:60] + b"\xff" * 200 + whole[260:])
    with pytest.raises(DataError) as error:
        load_images(path)
    assert "\n" not in str(error.value)
    path.write_bytes(whole)
    monkeypatch.setattr(data.parquet, "_LARGE", 100)
    monkeypatch.setattr(data.parquet, "_RATIO", 0)
    with pytest.raises(DataError, match="would unpack to"):
        load_images(path)


def test_parquet_with_texts_that_are_no_text_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", label=[0, 1, 0, 2], extra=[{"inner": 1}] * 4)
    path.write_bytes(path.read_bytes().replace(b"inner", b"\xafnner"))
    with pytest.raises(DataError, match="as Parquet"):
        load_images(path)
    images = [{"bytes": encoded(i), "path": f"name{i}"} for i in range(4)]
    path = table(tmp_path / "b.parquet", image=images, label=[0, 1, 0, 1])
    path.write_bytes(path.read_bytes().replace(b"name2", b"\xafame2"))
    with pytest.raises(DataError, match="1 of 4 images cannot be read"):
        load_images(path)


def test_a_missing_pyarrow_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "d", label=[0, 1, 0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"Parquet needs pyarrow; pip install 'detrigger\[parquet\]'"):
        load_images(path)


def test_a_class_without_drawn_images_keeps_its_number(tmp_path: Path) -> None:
    found = load_images(table(tmp_path / "d", label=[3, 1, 3, 1], names=tuple("abcdef")))
    assert found.names == tuple("abcdef") and found.y.tolist() == [3, 1, 3, 1]
    assert torch.equal(found.x[:, 2], torch.ones(4, 4, 6))
