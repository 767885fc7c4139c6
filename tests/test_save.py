from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from nets import NET
from torch import nn

from detrigger.errors import OutputError, UsageError
from detrigger.files.sniff import sniff
from detrigger.load import load_trigger, read_tensors
from detrigger.model import Classifier, Origin
from detrigger.save import check_target, save_classifier, save_trigger, write_atomically
from detrigger.trigger.patch import PatchTrigger


def classifier(net: nn.Module = NET, **origin: str) -> Classifier:
    return Classifier(net, tuple("abcde"), (3, 8, 8), origin=Origin(**origin))


@pytest.mark.parametrize("form", ["safetensors", "state-dict", "memory"])
def test_a_model_is_saved_in_the_format_it_came_in_bit_by_bit(tmp_path: Path, form: str) -> None:
    save_classifier(classifier(format=form), tmp_path / "out")
    read = read_tensors(tmp_path / "out")
    assert (
        read.format
        == sniff(tmp_path / "out").name
        == ("state-dict" if form == "state-dict" else "safetensors")
    )
    state = NET.state_dict()
    assert read.tensors.keys() == state.keys()
    assert all(torch.equal(read.tensors[k], v) and read.tensors[k].dtype == v.dtype for k, v in state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", ["safetensors", "state-dict"])
def test_shared_and_transposed_weights_are_saved_under_each_name(tmp_path: Path, form: str) -> None:
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "c": nn.Linear(2, 3)})
    net["b"] = net["a"]
    net["c"].weight = nn.Parameter(torch.rand(2, 3).T)
    save_classifier(classifier(net, format=form), tmp_path / "out")
    tensors = read_tensors(tmp_path / "out").tensors
    assert torch.equal(tensors["a.weight"], tensors["b.weight"])
    assert torch.equal(tensors["c.weight"], net["c"].weight)


def test_the_same_trigger_is_always_the_same_file(tmp_path: Path) -> None:
    trigger = PatchTrigger(torch.ones(1, 1, 2, 2), torch.rand(1, 3, 2, 2))
    for number in range(20):
        save_trigger(trigger, tmp_path / str(number), target=1, family="patch")
    (data,) = {path.read_bytes() for path in tmp_path.iterdir()}
    assert b'"__metadata__":{"family":"patch","target":"1"}' in data
    assert torch.equal(load_trigger(tmp_path / "0")[0].tensors()["patterns"], trigger.patterns)


def test_the_original_is_never_overwritten(tmp_path: Path) -> None:
    original = tmp_path / "m.safetensors"
    original.write_bytes(b"original")
    (tmp_path / "link").symlink_to(original)
    for path in (original, tmp_path / "link", tmp_path / "." / "m.safetensors"):
        with pytest.raises(OutputError, match="is the original model, which is not overwritten"):
            save_classifier(classifier(path=str(original)), path)
        with pytest.raises(OutputError):
            check_target(path, original)
    assert original.read_bytes() == b"original"
    check_target(tmp_path / "new", original)


def test_places_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "m", tmp_path / "file" / "m", tmp_path / "folder"):
        with pytest.raises(OutputError, match="cannot write") as error:
            save_classifier(classifier(), path)
        assert "\n" not in str(error.value)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, b"first")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


def test_a_written_file_replaces_the_old_and_is_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "a", b"one")
    with (tmp_path / "a").open("rb") as reader:
        write_atomically(tmp_path / "a", b"two")
        assert reader.read() == b"one"  # who reads meanwhile sees the old file whole
    assert (tmp_path / "a").read_bytes() == b"two"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_trigger_of_unknown_family_is_not_saved(tmp_path: Path) -> None:
    trigger = PatchTrigger(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4))
    with pytest.raises(UsageError, match="unknown family 'ghost'"):
        save_trigger(trigger, tmp_path / "t", target=None, family="ghost")


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"\(No space left on device\); make room there"):
        write_atomically(tmp_path / "new", b"data")
    assert list(tmp_path.iterdir()) == []
