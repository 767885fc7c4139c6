"""Every row of docs/formats.md that holds weights, with a real file: from loading to loading again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import graphs
import planted
import pytest
import samples
import torch
from command import ARCH, Files, call, written
from safetensors.torch import save_file
from torch import nn

from detrigger import measure
from detrigger.files.inspect import inspect_file
from detrigger.files.sniff import sniff
from detrigger.load import deviation, load_classifier, read_tensors
from detrigger.model import Classifier
from detrigger.repair.prune import PruneConfig, prune
from detrigger.save import save_classifier
from detrigger.scan import ScanConfig, scan

Capture = pytest.CaptureFixture[str]
DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


def network(files: Files) -> nn.Module:
    """The backdoored network by itself, with trainable weights as people save it."""
    net = planted.make()
    net.load_state_dict(files.truth.model.net.state_dict())
    return net


def loaded(path: Path, files: Files) -> Classifier:
    """By its architecture, which ONNX files hold themselves."""
    named = None if sniff(path).name == "onnx" else ARCH
    arguments = {"backdoors": 1} if named else {}
    images = files.truth.images
    return load_classifier(path, named, arguments, shape=images.shape, names=images.names)


def checkpoint(net: nn.Module, folder: Path) -> Path:
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    held = {"epoch": 3, "checkpoint": {}, "model": {"state_dict": state}, "loss": [0.5]}
    torch.save(held, folder / "model.pth")
    return folder / "model.pth"


def legacy(net: nn.Module, folder: Path) -> Path:
    optimizer = torch.optim.Adam(net.parameters(), lr=0)
    sum(p.sum() for p in net.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    held = {"optimizer": optimizer.state_dict(), "state_dict": net.state_dict()}
    torch.save(held, folder / "model.pth", _use_new_zipfile_serialization=False)
    return folder / "model.pth"


def script(net: nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=FutureWarning)
        torch.jit.save(torch.jit.script(net), folder / "model.pt")
    return folder / "model.pt"


def exported(net: nn.Module, folder: Path) -> Path:
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(2, 1, 12, 12),)), folder / "model.pt2")
    return folder / "model.pt2"


def saved(value: object, folder: Path) -> Path:
    torch.save(value, folder / "model.pth")
    return folder / "model.pth"


def safetensors(net: nn.Module, folder: Path) -> Path:
    save_file(net.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


ROWS: dict[str, tuple[str, Callable[[nn.Module, Path], Path]]] = {
    "safetensors": ("safetensors", safetensors),
    "plain": ("a state dict", lambda net, folder: saved(net.state_dict(), folder)),
    "checkpoint": ("a training checkpoint", checkpoint),
    "legacy": ("a checkpoint of before PyTorch 1.6", legacy),
    "whole": ("a whole pickled module", lambda net, folder: saved(nn.DataParallel(net), folder)),
    "torchscript": ("TorchScript", script),
    "pt2": ("torch.export", exported),
    "onnx-torchscript": ("ONNX", lambda _, folder: graphs.exported("torchscript", folder)),
    "onnx-dynamo": ("ONNX", lambda _, folder: graphs.exported("dynamo", folder)),
}
"""How the row of the document begins, and what writes such a file."""
ELSEWHERE = {
    "Keras, TensorFlow": "test_inspect.py",
    "folder of timm": "test_folders.py",
    "folder of Hugging Face": "test_folders.py",
}
"""Rows that need other networks, or are not read at all."""


@pytest.mark.parametrize("row", ROWS)
def test_a_format_is_loaded_scanned_repaired_saved_and_loaded_again(
    row: str, files: Files, tmp_path: Path
) -> None:
    net, images, out = network(files), files.truth.images, tmp_path / "fixed"
    path = ROWS[row][1](net, tmp_path)
    original = path.read_bytes()
    model = loaded(path, files)
    x = images.x[:3].clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    with torch.no_grad():
        torch.testing.assert_close(model(x), net.eval()(x))
    found = scan(model, images, ScanConfig(budget="quick", precision="fp32"))
    assert found.finding.verdict == "backdoored"
    triggers, targets = [b.trigger for b in found.backdoors], tuple(b.target for b in found.backdoors)
    repaired = prune(model, images, triggers, targets, PruneConfig()).model
    digest = save_classifier(repaired, out)
    assert digest == inspect_file(out).sha256 and deviation(repaired, out) == 0
    fixed = loaded(out, files)
    assert measure.accuracy(fixed, images) == 1
    assert measure.success(fixed, images, files.truth.triggers[0], 2) < 0.2
    assert not inspect_file(out).would_run and path.read_bytes() == original


def test_a_repaired_checkpoint_is_written_as_it_was_nested_and_told_with_both_hashes(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    path, out = checkpoint(network(files), tmp_path), tmp_path / "fixed.pth"
    original = path.read_bytes()
    said = call(capsys, files.repair(out, "--method", "prune", "--format", "json", model=path))
    assert (said.code, said.err) == (0, "") and path.read_bytes() == original
    report = json.loads(said.out)
    assert report["model"]["sha256"] == hashlib.sha256(original).hexdigest()
    told = {"path": str(out), "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}
    assert report["written"] == told | {"format": "state-dict", "difference": 0.0}
    before, after = (torch.load(p, weights_only=True)["model"]["state_dict"] for p in (path, out))
    assert before.keys() == after.keys() and torch.load(out, weights_only=True).keys() == {"model"}


def test_a_file_that_reads_back_differently_is_not_kept(
    files: Files, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = dataclasses.replace(samples.cleaning(), model=files.truth.model)
    monkeypatch.setattr("detrigger.cli.repair.clean", lambda *_, **__: done)
    monkeypatch.setattr("detrigger.cli.repair.deviation", lambda *_: 0.5)
    out = tmp_path / "fixed.safetensors"
    said = call(capsys, files.repair(out, "--method", "prune"))
    assert said.code == 2 and "read again gave logits that differ by 0.5" in said.err
    assert list(tmp_path.iterdir()) == []


def test_every_row_of_the_document_is_tested() -> None:
    models = DOCUMENT.read_text().partition("## Models")[2].partition("## `detrigger inspect`")[0]
    rows = {line[2:] for line in models.splitlines() if line.startswith("| ") and "| --" not in line}
    tested = {name for name, _ in ROWS.values()} | ELSEWHERE.keys()
    assert {row for row in rows if not row.startswith("format ")} == {
        row for row in rows for name in tested if row.startswith(name)
    }
    assert all(any(row.startswith(name) for row in rows) for name in tested)


def tied() -> nn.Module:
    first = nn.Linear(3, 3)
    return nn.Sequential(OrderedDict(a=first, b=first, norm=nn.BatchNorm1d(3)))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_gives_the_same_names_and_values_as_its_state_dict(
    tmp_path: Path, legacy: bool
) -> None:
    net = tied()
    net.register_buffer("kept", torch.arange(6).reshape(2, 3).T)
    net.register_buffer("left_out", torch.zeros(2), persistent=False)
    net.strided = nn.Parameter(torch.rand(4).to(torch.bfloat16)[::2])
    torch.save(net, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    read, state = read_tensors(tmp_path / "m.pth").tensors, net.state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in state.items())
    assert read["a.weight"].data_ptr() == read["b.weight"].data_ptr()
