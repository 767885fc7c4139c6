from __future__ import annotations

import io
import json
import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import archive, checkpoint, from_memo, plain_pickle, unknown_name, with_payload_inside
from nets import NET
from safetensors.torch import save, save_file

from detrigger.errors import ModelError
from detrigger.files.archive import in_pickle
from detrigger.files.inspect import inspect_file
from detrigger.files.machine import UNKNOWN
from detrigger.files.sniff import sniff
from detrigger.load import read_tensors


def torchscript(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=FutureWarning)
        torch.jit.save(torch.jit.script(NET), path)
    return path


def exported(path: Path) -> Path:
    torch.export.save(torch.export.export(NET, (torch.zeros(2, 3, 8, 8),)), path)
    return path


def with_header(path: Path, entries: object, data: bytes) -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def names(data: bytes) -> tuple[tuple[str, ...], bool]:
    """What pickles would use besides plain tensors, and whether they were read to their end."""
    found = in_pickle(data)
    return tuple(run.name for run in found.would_run), not found.findings


def test_formats_are_told_by_their_bytes(tmp_path: Path) -> None:
    made = {
        "safetensors": save({"a": torch.zeros(2)}),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "onnx": b"\x08\x08\x12\x07pytorch\x1a\x03" + bytes(20),
        "image": b"\x89PNG\r\n\x1a\n" + bytes(20),
        "pickle": pickle.dumps([1, 2], protocol=0),
        "empty": b"",
        "unknown": b"hello there, this is a text",
        "damaged-zip": b"PK\x03\x04" + bytes(30),
    }
    for name, data in made.items():
        (tmp_path / "file.bin").write_bytes(data)
        assert sniff(tmp_path / "file.bin").name == name
    members = {"keras": {"config.json": b"{}", "model.weights.h5": b""}, "zip": {"a.txt": b"a"}}
    for name, inside in members.items():
        assert sniff(archive(tmp_path / "file.bin", inside)).name == name
    np.savez(tmp_path / "data.npz", x=np.zeros(2))
    assert sniff(tmp_path / "data.npz").name == "npz"
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.txt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert sniff(tmp_path / "m.txt").name == "state-dict"
    assert sniff(tmp_path / "old").name == "legacy-state-dict"
    assert sniff(tmp_path).name == "directory"
    (tmp_path / "config.json").write_text("{}")
    assert sniff(tmp_path).name == "huggingface"


def test_formats_of_others_are_told_with_the_way_to_onnx(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\x1c\0\0\0TFL3" + bytes(20))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    archive(tmp_path / "k", {"config.json": b"{}", "model.weights.h5": b""})
    (tmp_path / "h").write_bytes(b"\x89HDF\r\n\x1a\n")
    for name, kind in {"m": "tflite", "saved": "saved-model", "k": "keras", "h": "hdf5"}.items():
        with pytest.raises(ModelError, match="export it to ONNX where you trust it: ") as error:
            read_tensors(tmp_path / name)
        assert sniff(tmp_path / name).name == kind and "\n" not in str(error.value)


def test_code_in_keras_files_is_told(tmp_path: Path) -> None:
    layers = b'{"layers": [{"class_name": "Lambda", "config": {}}]}'
    assert inspect_file(archive(tmp_path / "a", {"config.json": layers, "model.weights.h5": b""})).dangerous
    assert not inspect_file(
        archive(tmp_path / "b", {"config.json": b"{}", "model.weights.h5": b""})
    ).dangerous
    (tmp_path / "c").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99) + layers)
    assert inspect_file(tmp_path / "c").dangerous


def test_pickles_in_tar_archives_are_looked_through(tmp_path: Path) -> None:
    for name, data, code in (("pickle", from_memo(), True), ("pickle", b"N.", False), ("a.txt", b"x", False)):
        with tarfile.open(tmp_path / "m.tar", "w") as packed:
            (member := tarfile.TarInfo(name)).size = len(data)
            packed.addfile(member, io.BytesIO(data))
        assert inspect_file(tmp_path / "m.tar").dangerous == code


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        inspect_file(tmp_path / "none.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_listed_and_not_dangerous(tmp_path: Path, legacy: bool) -> None:
    torch.save(NET.state_dict(), tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    seen = inspect_file(tmp_path / "m.pth")
    assert not seen.dangerous and not seen.would_run and not seen.findings
    assert seen.tensors[0] == ("0.weight", (4, 3, 3, 3), "float32")
    assert seen.parameters == sum(p.numel() for p in NET.parameters())
    assert len(seen.sha256) == 64 and seen.size_bytes == (tmp_path / "m.pth").stat().st_size


@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_is_named_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "marker"
    path = checkpoint(tmp_path / "m.pth", marker, _use_new_zipfile_serialization=not legacy)
    seen = inspect_file(path)
    assert [(g.name, g.member) for g in seen.would_run] == [("posix.system", "" if legacy else "m/data.pkl")]
    assert seen.dangerous and not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_is_found_in_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    seen = inspect_file(plain_pickle(tmp_path / "m.pkl", marker, protocol))
    assert [g.name for g in seen.would_run] == ["posix.system"]
    assert seen.dangerous and not marker.exists()


def test_names_put_together_at_run_time_are_found_or_called_unknown() -> None:
    assert names(from_memo()) == (("os.system",), True)
    assert names(unknown_name()) == ((str(UNKNOWN),), True)
    assert names(b"\x80\x02\x82\x05.") == (("copyreg extension.5",), True)
    assert names(b"(S'true'\nios\nsystem\n.") == (("os.system",), True)


def test_a_second_pickle_after_the_first_is_read_too() -> None:
    assert names(pickle.dumps(1) + from_memo()) == (("os.system",), True)


def test_a_pickle_broken_after_its_payload_is_dangerous_and_the_payload_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pth", {"m/data.pkl": from_memo()[:-1] + b"\xff", "m/version": b"3\n"})
    seen = inspect_file(path)
    assert [g.name for g in seen.would_run] == ["os.system"]
    assert any("cannot be read to its end" in f.sentence for f in seen.findings)
    harmless = inspect_file(archive(tmp_path / "m.pth", {"m/data.pkl": b"\x80\x02}", "m/version": b"3\n"}))
    assert harmless.dangerous and not harmless.would_run


def test_a_payload_in_an_archive_in_the_archive_is_found(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    seen = inspect_file(with_payload_inside(tmp_path / "m.pt2", marker))
    assert seen.format == "pt2"
    assert [g.name for g in seen.would_run] == ["posix.system"]
    assert seen.would_run[0].member == "m/data/sample_inputs/model.pt/archive/data.pkl"
    assert not marker.exists()


def test_a_payload_in_a_member_without_a_pickle_name_is_found(tmp_path: Path) -> None:
    for payload in (from_memo(), b"cos\nsystem\n(S'true'\ntR."):
        path = archive(tmp_path / "m.pth", {"m/data.pkl": pickle.dumps({}), "m/data/0": payload})
        assert [(g.name, g.member) for g in inspect_file(path).would_run] == [("os.system", "m/data/0")]


def test_torchscript_is_dangerous(tmp_path: Path) -> None:
    seen = inspect_file(torchscript(tmp_path / "m.pt"))
    assert seen.format == "torchscript" and seen.dangerous
    assert any("run the code that is in it" in f.sentence for f in seen.findings)


def test_a_pt2_that_asks_for_pickles_is_dangerous_and_one_of_plain_tensors_is_explained(
    tmp_path: Path,
) -> None:
    seen = inspect_file(exported(tmp_path / "m.pt2"))
    assert seen.format == "pt2" and not seen.dangerous
    assert any("torch.export.load" in f.sentence for f in seen.findings)
    config = b'{"config": {"w": {"path_name": "weight_0", "use\\u005fpickle": true}}}'
    asking = archive(tmp_path / "n.pt2", {"m/archive_format": b"pt2", "m/data/weights/config.json": config})
    assert inspect_file(asking).dangerous


def test_members_with_paths_that_leave_the_folder_or_come_twice_are_flagged(tmp_path: Path) -> None:
    for name in ("../../evil", "/etc/passwd", "C:\\evil", "a\\..\\..\\evil"):
        seen = inspect_file(archive(tmp_path / "m.zip", {name: b"x"}))
        assert seen.dangerous and "outside its folder" in seen.findings[0].sentence
    seen = inspect_file(archive(tmp_path / "m.pth", {"m/data.pkl": pickle.dumps({}), "m/DATA.pkl": b"N."}))
    assert seen.dangerous and "readers may see different ones" in seen.findings[0].sentence


def test_an_archive_bomb_is_read_within_a_limit(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pth", {"m/data.pkl": bytes(80 << 20)})
    assert path.stat().st_size < 1 << 20
    seen = inspect_file(path)
    assert seen.dangerous and any("too large to be looked through" in f.sentence for f in seen.findings)


def test_a_member_that_one_reader_cannot_read_is_dangerous(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pth", {"m/data.pkl": pickle.dumps({"a": 1})})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 16] ^= 255  # checksum in the central directory, which torch may ignore
    data[14] ^= 255
    path.write_bytes(data)
    seen = inspect_file(path)
    assert seen.dangerous and "cannot be read" in seen.findings[0].sentence


def test_arrays_of_objects_are_dangerous_and_plain_ones_are_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{1: 2}, None]), O=np.zeros(2))
    np.savez(tmp_path / "b.npz", O=np.zeros(2, dtype=np.uint8))
    assert inspect_file(tmp_path / "a.npz").dangerous
    assert not inspect_file(tmp_path / "b.npz").dangerous


def test_a_sound_safetensors_file_has_no_findings(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3, dtype=torch.float16), "b": torch.zeros(())}, tmp_path / "m")
    seen = inspect_file(tmp_path / "m")
    assert not seen.findings and not seen.dangerous
    assert set(seen.tensors) == {("a", (2, 3), "float16"), ("b", (), "float32")}
    assert seen.parameters == 7


def test_a_dishonest_safetensors_header_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    a = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

    def findings(entries: object, data: bytes) -> str:
        return " ".join(f.sentence for f in inspect_file(with_header(path, entries, data)).findings)

    assert findings({"a": a}, bytes(8)) == ""
    assert "truncated" in findings({"a": a}, bytes(5))
    assert "belong to no tensor" in findings({"a": a}, bytes(9))
    assert "overlaps" in findings({"a": a, "b": a}, bytes(8))
    assert "needs 12 bytes" in findings({"a": a | {"shape": [3]}}, bytes(8))
    assert "not whole numbers" in findings({"a": a | {"shape": [-2]}}, bytes(8))
    assert "not whole numbers" in findings({"a": a | {"data_offsets": [0]}}, bytes(8))
    assert "not known" in findings({"a": a | {"dtype": "F99"}}, bytes(8))
    assert "lacks" in findings({"a": 5}, b"")
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    assert "claims 4611686018427387904 bytes" in inspect_file(path).findings[0].sentence
    path.write_bytes((5).to_bytes(8, "little") + b"{abcd")
    assert "not valid JSON" in inspect_file(path).findings[0].sentence


def test_a_folder_is_described(tmp_path: Path) -> None:
    seen = inspect_file(tmp_path)
    assert (seen.format, seen.size_bytes, seen.sha256, seen.dangerous) == ("directory", 0, "", False)
