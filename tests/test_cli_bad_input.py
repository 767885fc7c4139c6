"""Whatever is given: one line that says what is wrong, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command import QUICK, Files, call, environment, refused, save_images, tree, written
from hostile import Payload, checkpoint, plain_pickle
from PIL import Image
from safetensors.torch import load_file, save_file

from detrigger.cli import run
from detrigger.images import Images

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


def folders(folder: Path, images: Images, names: Callable[[int], str] = str) -> Path:
    """The images as one folder of PNGs per class."""
    for i, (x, y) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
        (of_class := folder / names(y)).mkdir(exist_ok=True, parents=True)
        Image.fromarray((x[0] * 255).round().byte().numpy()).save(of_class / f"{i}.png")
    return folder


def empty_folder(folder: Path, files: Files) -> Path:
    (folder / "data").mkdir()
    return folder / "data"


def one_class(folder: Path, files: Files) -> Path:
    images = files.truth.images
    return folders(folder / "data", images.where(images.y == 0))


def corrupt_images(folder: Path, files: Files, count: int = 8) -> Path:
    made = folders(folder / "data", files.truth.images)
    for path in sorted((made / "3").iterdir())[:count]:
        path.write_bytes(path.read_bytes()[:60])
    return made


def objects(folder: Path, files: Files) -> Path:
    path, marker = folder / "data.npz", folder / "marker"
    np.savez(path, x=np.array([Payload(marker)], dtype=object), y=np.zeros(1, dtype=int))
    return path


def label_out_of_range(folder: Path, files: Files) -> Path:
    images = files.truth.images
    return save_images(folder / "data.npz", Images(images.x, images.y + 1, tuple("0123456")))


def negative_label(folder: Path, files: Files) -> Path:
    np.savez(folder / "data.npz", x=np.zeros((4, 12, 12), dtype=np.uint8), y=np.array([0, 1, -1, 0]))
    return folder / "data.npz"


def other_size(folder: Path, files: Files) -> Path:
    np.savez(folder / "data.npz", x=np.zeros((12, 8, 8), dtype=np.uint8), y=np.arange(12) % 6)
    return folder / "data.npz"


def all_one_label(folder: Path, files: Files) -> Path:
    np.savez(folder / "data.npz", x=np.zeros((12, 12, 12), dtype=np.uint8), y=np.full(12, 5))
    return folder / "data.npz"


def half_an_archive(folder: Path, files: Files) -> Path:
    (folder / "data.npz").write_bytes(files.data.read_bytes()[:5000])
    return folder / "data.npz"


def nothing_there(folder: Path, files: Files) -> Path:
    return folder / "missing"


def a_model(folder: Path, files: Files) -> Path:
    return files.bad


DATA: dict[str, tuple[Callable[[Path, Files], Path], str]] = {
    "nothing there": (nothing_there, "there is no file or folder"),
    "an empty folder": (empty_folder, "has no folders in it; wanted one folder of images per class"),
    "a folder with one class": (one_class, "has a single class, '0'"),
    "corrupt images": (corrupt_images, "8 of 144 images cannot be read, the first is"),
    "an archive with objects": (objects, "holds an array of Python objects"),
    "half an archive": (half_an_archive, "damaged or truncated zip archive"),
    "a label the model lacks": (label_out_of_range, "7 classes"),
    "a negative label": (negative_label, "y holds the label -1"),
    "images of another size": (other_size, "the network fails on images of shape 1×8×8"),
    "images of one class": (all_one_label, "all images have one label"),
    "a model": (a_model, "is a safetensors file; wanted a folder of class folders, an .npz"),
}


def test_a_corrupt_image_among_many_is_left_out_and_named_once(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = call(capsys, files.scan(None, data=corrupt_images(tmp_path, files, 1)))
    assert said.code == 1 and "143 images" in said.out
    assert said.err.startswith("note: 1 of 144 images cannot be read, the first is ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("case", DATA)
def test_unusable_data_are_told_in_one_line_and_nothing_is_written(
    case: str, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    make, wanted = DATA[case]
    data = make(tmp_path, files)
    before = tree(tmp_path)
    for words in (
        [*files.scan(data=data), "--out", str(tmp_path / "new" / "report")],
        ["repair", *files.on(data=data), "--out", str(tmp_path / "new" / "fixed.safetensors")],
        ["identify", str(files.bad), str(files.known), str(files.known), *files.on(data=data)[1:]],
    ):
        if case == "images of one class" and words[0] == "identify":
            continue  # not of the target class, they serve
        assert wanted in refused(capsys, words)
        assert tree(tmp_path) == before and not (tmp_path / "new").exists()


def missing(folder: Path, files: Files) -> Path:
    return folder / "missing.safetensors"


def truncated(folder: Path, files: Files) -> Path:
    (folder / "model.safetensors").write_bytes(files.bad.read_bytes()[:-40])
    return folder / "model.safetensors"


def empty_file(folder: Path, files: Files) -> Path:
    (folder / "model.safetensors").touch()
    return folder / "model.safetensors"


def with_payload(folder: Path, files: Files) -> Path:
    return checkpoint(folder / "model.pth", folder / "marker")


def bare_payload(folder: Path, files: Files) -> Path:
    return plain_pickle(folder / "model.pt", folder / "marker", 4)


def not_a_number(folder: Path, files: Files) -> Path:
    tensors = load_file(files.bad)
    tensors["conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def other_network(folder: Path, files: Files) -> Path:
    save_file({"head.weight": torch.zeros(2, 3)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def a_folder(folder: Path, files: Files) -> Path:
    (folder / "model").mkdir()
    return folder / "model"


def the_data(folder: Path, files: Files) -> Path:
    return files.data


MODELS: dict[str, tuple[Callable[[Path, Files], Path], str]] = {
    "nothing there": (missing, "there is no file"),
    "truncated safetensors": (truncated, "is a damaged safetensors file"),
    "an empty file": (empty_file, "is an empty file"),
    "a checkpoint with a payload": (
        with_payload,
        "system when opened with ordinary tools, so it is not used",
    ),
    "a pickle with a payload": (bare_payload, "is a Python pickle that would call"),
    "weights that are no numbers": (not_a_number, "conv1.weight holds NaN or infinite values"),
    "weights of another network": (other_network, "the weights do not fit"),
    "a folder": (a_folder, "is a folder; give the weights file itself"),
    "the data": (the_data, "is a NumPy archive (.npz); this is data, not a model"),
}


@pytest.mark.parametrize("case", MODELS)
def test_an_unusable_model_is_told_in_one_line_and_nothing_is_written(
    case: str, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    make, wanted = MODELS[case]
    model = make(tmp_path, files)
    before = tree(tmp_path)
    for words in (
        files.scan(model, "--out", str(tmp_path / "new" / "report")),
        files.repair(tmp_path / "new" / "fixed.safetensors", model=model),
        ["identify", str(model), str(files.known), str(files.known), *files.on()[1:]],
    ):
        line = refused(capsys, words)
        assert wanted in line and str(model) in line
        assert tree(tmp_path) == before and not (tmp_path / "new").exists()
    assert not (tmp_path / "marker").exists()


def test_the_payloads_of_these_tests_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))  # noqa: S301
    assert (tmp_path / "marker").exists()


def test_what_cannot_be_inspected_is_told_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    assert "there is no file" in refused(capsys, ["inspect", str(tmp_path / "missing")])


def test_grey_images_for_a_colour_model_are_told_how_to_be_read(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    save_file(
        {
            "1.weight": torch.zeros(6, 3, 12, 12),
            "1.bias": torch.zeros(6),
        },
        tmp_path / "colour.safetensors",
    )
    arch = tmp_path / "colour.py"
    arch.write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Identity(), nn.Conv2d(3, 6, 12), nn.Flatten())\n"
    )
    words = [
        "scan",
        str(tmp_path / "colour.safetensors"),
        "--data",
        str(files.data),
        "--arch",
        f"{arch}:make",
    ]
    assert "the model wants 3 channels, the images have 1; use --channels 3" in refused(capsys, words)
    assert run([*words, "--channels", "3"]) == 3  # it knows nothing, so it is near chance


NETWORK = """
import planted
from torch import nn

class Net(nn.Module):
    def __init__(self, how):
        super().__init__()
        for name, part in planted.make().named_children():
            setattr(self, name, part)
        self.how = how
    def forward(self, x):
        for part in self.children():
            x = part(x)
        return {how}

def make():
    return Net("")
"""


def network(folder: Path, result: str) -> list[str]:
    """Flags for the planted network, whose forward ends in this expression of x."""
    (folder / "network.py").write_text(NETWORK.replace("{how}", result))
    return ["--arch", f"{folder / 'network.py'}:make"]


def test_a_model_that_returns_probabilities_works_and_the_report_says_so(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    words = ["scan", str(files.bad), "--data", str(files.data), "--format", "json", *QUICK]
    said = call(capsys, [*words, *network(tmp_path, "x.softmax(1)")])
    report = json.loads(said.out)
    assert said.code == 1 and report["model"]["probabilities"] and report["backdoors"][0]["target"] == 2
    said = call(capsys, [*words, *network(tmp_path, "x")])
    assert not json.loads(said.out)["model"]["probabilities"]


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        ("x + x.new_zeros(7)", "the network fails on images of shape 1×12×12 (The size of tensor a (6)"),
        ("x.missing", "the network fails on images of shape 1×12×12"),
        ("x.argmax(1)", "wanted 8×classes"),
        ("x * float('nan')", "returns NaN or infinite values"),
        ("(x, x)", "the network returned tuple"),
        ("x / (len(x) == 8) if len(x) == 8 else x * float('nan')", "returns NaN or infinity for 144 of 144"),
    ],
)
def test_a_network_that_fails_is_told_in_one_line(
    result: str, wanted: str, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    words = ["scan", str(files.bad), "--data", str(files.data), "--out", str(tmp_path / "report")]
    assert wanted in refused(capsys, [*words, *network(tmp_path, result)])
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("broken", ["1/0", "raise SystemError('odd')", "import nothing_of_this_name", "def"])
def test_an_architecture_file_that_fails_is_told_in_one_line(
    broken: str, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "network.py").write_text(f"{broken}\n")
    words = ["scan", str(files.bad), "--data", str(files.data), "--arch", f"{tmp_path / 'network.py'}:make"]
    said = call(capsys, words)
    assert said.code in (2, 4) and "network.py" in said.err and said.err.count("\n") == 1
    assert said.err.startswith("detrigger: ")


def test_places_that_cannot_be_written_are_refused_before_the_work(
    files: Files, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "file").write_text("mine")
    (folder := tmp_path / "folder").mkdir()
    (tmp_path / "fixed.report.json").mkdir()
    before, given = tree(tmp_path), tree(files.bad.parent)
    for words, wanted in (
        (files.scan(None, "--out", str(file)), f"{file} is a file, wanted a folder"),
        (files.scan(None, "--out", str(file / "in" / "it")), f"{file} is a file, wanted a folder"),
        (files.scan(None, "--out", str(tmp_path / ("long" * 80))), "cannot be written"),
        (files.repair(file / "fixed.safetensors"), f"{file} is a file, wanted a folder"),
        (files.repair(folder), f"{folder} is a folder, wanted a file"),
        (files.repair(tmp_path / "fixed"), "fixed.report.json is a folder, wanted a file"),
        (files.repair(files.bad), "is the original model, which is not overwritten"),
        (files.repair(files.data), "is read here, so it is not overwritten"),
        (["demo", "--out", str(file)], f"{file} is a file, wanted a folder"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("detrigger.cli.inputs.load_images", lambda *_, **__: pytest.fail("began to work"))
            assert wanted in refused(capsys, words)
    assert tree(tmp_path) == before and tree(files.bad.parent) == given


def test_the_original_is_recognised_under_another_name(files: Files, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "same.safetensors").symlink_to(files.bad)
    original = files.bad.read_bytes()
    assert "is not overwritten" in refused(capsys, files.repair(tmp_path / "same.safetensors"))
    assert files.bad.read_bytes() == original


def test_reports_that_do_not_fit_are_refused(files: Files, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report"
    run(files.scan(files.clean, "--out", str(report)))
    (tmp_path / "broken.json").write_text('{"schema_version": 1}')
    for name, wanted in (
        ("report/report.json", "the report is about a model with sha256"),
        ("missing.json", "cannot read the report"),
        ("report", "cannot read the report"),
        ("broken.json", "not a detrigger report"),
    ):
        words = files.repair(tmp_path / "new" / "fixed.safetensors", "--report", str(tmp_path / name))
        assert wanted in refused(capsys, words)
    assert not (tmp_path / "new").exists()


def test_a_report_whose_trigger_is_gone_is_refused(files: Files, tmp_path: Path, capsys: Capture) -> None:
    run(files.scan(None, "--out", str(tmp_path)))
    (tmp_path / "triggers" / "class_2.safetensors").unlink()
    words = files.repair(tmp_path / "fixed.safetensors", "--report", str(tmp_path / "report.json"))
    assert "there is no trigger file" in refused(capsys, words)


def test_triggers_that_do_not_fit_are_refused(files: Files, tmp_path: Path, capsys: Capture) -> None:
    tensors = {
        name: value[..., :8, :8].contiguous() for name, value in files.truth.triggers[0].tensors().items()
    }
    save_file(tensors, tmp_path / "small.safetensors", metadata={"family": "patch", "target": "2"})
    save_file(
        files.truth.triggers[0].tensors(), tmp_path / "untold.safetensors", metadata={"family": "patch"}
    )
    for found, wanted, code in (
        ("small.safetensors", "1×12×12", 2),
        ("missing.safetensors", "there is no trigger file", 2),
        ("untold.safetensors", "does not say its target class; give --target", 4),
    ):
        words = ["identify", str(files.bad), str(tmp_path / found), str(files.known), *files.on()[1:]]
        assert wanted in refused(capsys, words, code)
    words = ["identify", str(files.bad), str(files.bad), str(files.known), *files.on()[1:]]
    assert "wanted a trigger of one of" in refused(capsys, words)


def test_names_of_classes_do_no_harm_to_terminal_or_browser(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    nasty = {2: "\x1b[2J\x1b]0;owned\x07", 3: "<script>alert(1)<&>", 4: "[red]..‮", 5: "é\n\\"}
    data = folders(
        tmp_path / "data", files.truth.images, lambda y: f"{y}" + nasty.get(y, "").replace("/", "∕")
    )
    said = call(capsys, files.scan(None, "--out", str(tmp_path / "out"), data=data))
    assert (said.code, said.err) == (1, "")
    assert all(c.isprintable() or c == "\n" for c in said.out) and "\\x1b" in said.out and "[red]" in said.out
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html and "\x1b" not in html
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        "class_2.png",
        "class_2.safetensors",
        "report.cdx.json",
        "report.html",
        "report.json",
        "report.junit.xml",
        "report.md",
        "report.sarif",
    ]
    for words in (["inspect", "a\x1b[2J\nb"], files.scan(tmp_path / "\x1b]0;x\x07"), ["\x1b[2J"]):
        line = call(capsys, words).err
        assert line.startswith("detrigger: ") and line.count("\n") == 1 and line[:-1].isprintable()


def test_damaged_kept_work_is_done_again(files: Files, tmp_path: Path, capsys: Capture) -> None:
    (kept := tmp_path / ".detrigger-work").mkdir()
    (kept / "0123.safetensors").write_bytes(b"half")
    said = call(capsys, files.scan(None, "--out", str(tmp_path), "--resume"))
    assert (said.code, said.err) == (1, "") and not kept.exists()


SLOW = """
import pathlib, sys, time
sys.path.insert(0, {tests!r})
import planted

def make():
    net = planted.make()
    calls = []
    def wait(*_):
        calls.append(1)
        if len(calls) > 20:
            pathlib.Path({marker!r}).touch()
            time.sleep(0.2)
    net.register_forward_hook(wait)
    return net
"""


def test_ctrl_c_ends_a_scan_with_130_and_leaves_nothing_half_written(files: Files, tmp_path: Path) -> None:
    marker, arch, out = tmp_path / "searching", tmp_path / "slow.py", tmp_path / "out"
    arch.write_text(SLOW.format(tests=str(Path(__file__).parent), marker=str(marker)))
    words = ["scan", str(files.bad), "--data", str(files.data), *QUICK, "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "detrigger", *words, "--arch", f"{arch}:make"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as scanning:
        began = time.monotonic()
        while not marker.exists() and scanning.poll() is None and time.monotonic() < began + 100:
            time.sleep(0.05)
        scanning.send_signal(signal.SIGINT)
        said, complaint = scanning.communicate(timeout=30)
    assert marker.exists(), complaint
    assert (scanning.returncode, said) == (130, b"")
    assert complaint == b"detrigger: interrupted: no class was done yet, so nothing was kept\n"
    assert not out.exists()
