"""A full disk, two scans in one folder, a scan that was killed: nothing is lost, nothing half-written."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import Files, call, refused, tree, written

from detrigger.cli import run
from detrigger.cli.results import KEPT, NEW, claimed
from detrigger.errors import OutputError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def found(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a scan writes, for all tests here."""
    folder = tmp_path_factory.mktemp("found")
    assert run(files.scan(None, "--out", str(folder))) == 1
    return folder


@contextmanager
def no_room_for(size: int) -> Iterator[None]:
    """Writing more than so many bytes into one file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 20_000])
def test_a_full_disk_ends_a_scan_in_one_line_and_what_was_there_stays(
    size: int, files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    """With room for nothing, and with room for the results of the classes and the triggers alone."""
    shutil.copytree(found, out := tmp_path / "out")
    before = tree(out)
    with no_room_for(size):
        assert "cannot write" in refused(capsys, files.scan(None, "--out", str(out), "--seed", "1"))
        if not size:
            refused(capsys, files.scan(None, "--out", str(tmp_path / "new" / "out"), "--seed", "1"))
    after = tree(out)
    assert {name: after.get(name) for name in before} == before and not (out / NEW).exists()
    assert all(name in before or name.startswith(".detrigger-work/") for name in after)
    assert not (tmp_path / "new").exists()


def test_two_scans_do_not_write_into_one_folder(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = tree(found)
    with claimed(found):
        assert "is being written to by another detrigger" in refused(
            capsys, files.scan(None, "--out", str(found))
        )
    assert tree(found) == before
    with claimed(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        with pytest.raises(OutputError), claimed(tmp_path / "a" / "b"):
            pass
    assert not (tmp_path / "a").exists()
    with claimed(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert (tmp_path / "a" / "b" / "kept").exists()


def test_what_a_killed_scan_left_is_cleared_away_by_the_next(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(found, out := tmp_path / "out")
    (out / NEW / "triggers").mkdir(parents=True)
    (out / NEW / "triggers" / "class_5.png").write_bytes(b"half")
    (out / "triggers" / "class_5.png").write_bytes(b"of an earlier model")
    assert call(capsys, files.scan(None, "--out", str(out))).code == 1
    assert tree(out).keys() == tree(found).keys()


def test_a_scan_that_was_killed_at_its_very_end_leaves_nothing_when_it_is_resumed(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Its report is there already, so that nothing is scanned again."""
    shutil.copytree(found, out := tmp_path / "out")
    (out / NEW / "triggers").mkdir(parents=True)
    (out / KEPT).mkdir()
    (out / KEPT / "0123.safetensors").write_bytes(b"half")
    assert call(capsys, files.scan(None, "--out", str(out), "--resume")).code == 1
    assert tree(out) == tree(found) and not (out / NEW).exists() and not (out / KEPT).exists()


def test_a_report_is_exchanged_when_all_else_is_done(
    files: Files, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(found, out := tmp_path / "out")
    (out / "triggers" / "class_5.png").write_bytes(b"of an earlier model")
    seen: list[bool] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        if target == out / "report.json":
            seen.append((out / "triggers" / "class_5.png").exists())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    assert run(files.scan(None, "--out", str(out))) == 1
    assert seen == [False]


@pytest.mark.parametrize("name", ["triggers", ".detrigger-work", ".detrigger-new", "bad"])
def test_nothing_is_written_through_a_link_in_the_folder(
    name: str, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "class_5.png").write_bytes(b"mine")
    (out := tmp_path / "out").mkdir()
    (out / name).symlink_to(elsewhere)
    words = files.scan(None, "--out", str(out))
    if name == "bad":  # the folder of a model among several
        words.insert(1, str(files.clean))
    before = tree(tmp_path)
    assert f"{out / name} is a link" in refused(capsys, words)
    assert tree(tmp_path) == before and (out / name).is_symlink()
    (out / name).unlink()


def test_a_link_in_the_place_of_a_report_is_replaced_and_not_followed(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    (mine := tmp_path / "mine").write_bytes(b"mine")
    (out := tmp_path / "out").mkdir()
    for name in ("report.json", "report.html"):
        (out / name).symlink_to(mine)
    assert call(capsys, files.scan(None, "--out", str(out))).code == 1
    assert mine.read_bytes() == b"mine" and not (out / "report.json").is_symlink()
