"""The program as its users meet it: exit codes, what stands on stdout and stderr, files left behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from command import ARCH, TARGET, Files, call, environment, process, refused, save_images, tree, written
from hostile import plain_pickle
from PIL import Image
from safetensors.torch import load_file, save_file

from detrigger import clean, cli, engine, measure, scan
from detrigger.budgets import BUDGETS
from detrigger.cli import console
from detrigger.cli import scan as scan_command
from detrigger.images import Images
from detrigger.invert import InvertConfig, Progress, Stage
from detrigger.load import load_classifier, load_trigger
from detrigger.model import Classifier
from detrigger.repair.methods import METHODS
from detrigger.report.formats import FORMATS
from detrigger.report.schema import json_schema
from detrigger.trigger import FAMILIES

REPORTS = [told.file for told in FORMATS.values()] + ["report.html", "report.json"]
Capture = pytest.CaptureFixture[str]
TRIGGERS = [f"triggers/class_{TARGET}.png", f"triggers/class_{TARGET}.safetensors"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def found(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scan of the backdoored model."""
    out = tmp_path_factory.mktemp("found")
    assert cli.run(files.scan(None, "--out", str(out))) == 1
    return out


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> int:
    """The quick budget searches one of six classes at a time; how many steps it takes for each."""
    stage = Stage(10, InvertConfig().batch)
    monkeypatch.setitem(BUDGETS, "quick", {"patch": (stage,)})
    return stage.steps


def without_cost(report: bytes | str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(report)
    return {key: value for key, value in values.items() if key != "cost"}


def restored(path: Path, files: Files) -> Classifier:
    return load_classifier(path, ARCH, shape=files.truth.images.shape, names=tuple("012345"))


def test_a_scan_that_finds_a_backdoor_exits_with_1_and_leaves_its_files_and_no_others(
    files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "report"
    said = process(files.scan(None, "--out", str(out)))
    assert (said.code, said.err) == (1, "")
    assert said.out.startswith("BACKDOORED: a") and f"to class {TARGET}" in " ".join(said.out.split())
    told, _, command = said.out.partition("Next: detrigger ")
    assert all(len(line) <= 80 for line in told.splitlines())
    assert all(line == line.rstrip() for line in said.out.splitlines())
    assert list(tree(tmp_path)) == [f"new/report/{name}" for name in sorted([*REPORTS, *TRIGGERS])]
    flags = ["--arch", ARCH, "--arch-kw", "backdoors=1"]
    repair = ["repair", str(files.bad), "--data", str(files.data), *flags]
    assert shlex.split(command.replace("\\\n", "")) == [
        *repair,
        "--report",
        str(out / "report.json"),
        "--out",
        "FIXED",
    ]
    trigger, facts = load_trigger(out / TRIGGERS[1])
    assert facts["family"] in FAMILIES and facts["target"] == str(TARGET) and len(trigger) == 1
    others = files.truth.images.where(files.truth.images.y != TARGET)
    assert measure.success(files.truth.model, others, trigger, TARGET) > 0.75
    with Image.open(out / TRIGGERS[0]) as picture:
        assert picture.format == "PNG"


def test_a_scan_of_the_clean_twin_exits_with_0_and_prints_only_the_report(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    said = call(capsys, files.scan(files.clean, "--format", "json", "--out", str(tmp_path)))
    assert (said.code, said.err) == (0, "")
    report = json.loads(said.out)
    jsonschema.validate(report, json_schema(), jsonschema.Draft202012Validator)
    assert report["verdict"] == "clean" and report["model"]["path"] == str(files.clean)
    assert report == json.loads((tmp_path / "report.json").read_bytes())
    assert list(tree(tmp_path)) == sorted(REPORTS)


def test_without_out_a_scan_writes_nothing(
    files: Files, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(capsys, files.scan(None)).out and not tree(tmp_path)


def test_wrong_labels_are_inconclusive_and_exit_with_3(files: Files, tmp_path: Path, capsys: Capture) -> None:
    told = files.truth.images
    shuffled = told.y[torch.randperm(len(told), generator=torch.Generator().manual_seed(0))]
    data = save_images(tmp_path / "shuffled.npz", Images(told.x, shuffled, told.names))
    said = call(capsys, files.scan(data=data))
    assert (said.code, said.err) == (3, "") and said.out.startswith("INCONCLUSIVE: clean accuracy is ")


def test_some_classes_can_be_scanned_alone(files: Files, capsys: Capture) -> None:
    said = call(capsys, files.scan(files.clean, "--classes", "3, 0,3", "--format", "json"))
    report = json.loads(said.out)
    assert said.code == 3 and [c["index"] for c in report["classes"]] == [0, 3]
    assert report["reasons"][-1] == "only 2 of 6 classes were scanned"


def test_class_folders_give_the_classes_their_names(files: Files, tmp_path: Path, capsys: Capture) -> None:
    for i, (x, y) in enumerate(zip(files.truth.images.x, files.truth.images.y.tolist(), strict=True)):
        (folder := tmp_path / f"kind {y}").mkdir(exist_ok=True)
        Image.fromarray((x[0] * 255).round().byte().numpy()).save(folder / f"{i}.png")
    said = call(capsys, files.scan(data=tmp_path))
    assert said.code == 1 and "to class 2 ('kind 2')" in " ".join(said.out.split())


def test_a_second_scan_into_the_same_folder_leaves_no_triggers_of_the_first(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "triggers").mkdir()
    for name in TRIGGERS:
        (tmp_path / name).write_bytes((found / name).read_bytes())
    (tmp_path / "triggers" / "class_notes.txt").write_text("mine")
    assert call(capsys, files.scan(files.clean, "--out", str(tmp_path))).code == 0
    assert list(tree(tmp_path)) == [*sorted(REPORTS), "triggers/class_notes.txt"]


def test_the_same_seed_gives_the_same_report(files: Files, capsys: Capture) -> None:
    words = files.scan(None, "--format", "json")
    first, again, other = (call(capsys, [*words, "--seed", seed]).out for seed in ("5", "5", "6"))
    assert without_cost(first) == without_cost(again)
    assert without_cost(first)["classes"] != without_cost(other)["classes"]


def test_jobs_do_not_change_the_report(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch, one_by_one: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(engine, "threads", lambda jobs, made=engine.threads: asked.append(jobs) or made(jobs))
    words = files.scan(None, "--format", "json")
    one, two = (call(capsys, [*words, "--jobs", jobs]) for jobs in "12")
    assert asked == [1, 2]
    assert one.code == two.code and one.err == two.err == ""
    assert without_cost(one.out) == without_cost(two.out)


def test_an_interrupted_scan_goes_on_where_it_was(
    files: Files, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, one_by_one: int
) -> None:
    calls: list[int] = []
    stop_at = one_by_one + 3

    @contextmanager
    def counted(what: str) -> Iterator[Progress]:
        def callback(done: int, total: int) -> None:
            calls.append(done)
            if len(calls) == stop_at:
                raise KeyboardInterrupt

        calls.clear()
        yield callback

    words = files.scan(None, "--out")
    uninterrupted, broken = tmp_path / "whole", tmp_path / "broken"
    whole = call(capsys, [*words, str(uninterrupted)])
    monkeypatch.setattr(scan_command, "progress", counted)
    said = call(capsys, [*words, str(broken)])
    kept = broken / scan_command.KEPT
    told = f"interrupted: the classes that were done are kept in {kept}; go on with --resume"
    assert (said.code, said.out, said.err) == (130, "", f"detrigger: {told}\n")
    assert len(tree(kept)) == 1 and list(tree(broken)) == [f"{kept.name}/{name}" for name in tree(kept)]
    stop_at = -1
    shutil.copytree(broken, other := tmp_path / "other")
    call(capsys, [*words, str(other), "--resume", "--seed", "1"])
    assert len(calls) == 6 * one_by_one  # what is kept is of another seed
    resumed = call(capsys, [*words, str(broken), "--resume"])
    assert resumed.code == whole.code and len(calls) == 5 * one_by_one + 1  # and the end
    reports = [(folder / "report.json").read_bytes() for folder in (uninterrupted, broken)]
    assert without_cost(reports[0]) == without_cost(reports[1])
    assert not kept.exists()


SLOW = """
import pathlib, sys, time, torch
sys.path.append(FOLDER)
import planted

class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        pathlib.Path(MARKER).touch()
        time.sleep(20)
        return gradient

def make(**options):
    net = planted.make(**options)
    net.register_forward_pre_hook(lambda module, inputs: (Slow.apply(*inputs),))
    return net
"""


def test_an_interruption_does_not_wait_for_what_is_being_computed(files: Files, tmp_path: Path) -> None:
    marker, arch = tmp_path / "begun", tmp_path / "slow.py"
    code = SLOW.replace("FOLDER", repr(str(Path(__file__).parent))).replace("MARKER", repr(str(marker)))
    arch.write_text(code)
    words = [f"{arch}:make" if word == ARCH else word for word in files.scan(None, "--jobs", "2")]
    command = [sys.executable, "-m", "detrigger", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment()) as running:
        assert running.stderr is not None
        while not marker.exists():
            assert running.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait() == 130 and time.monotonic() - began < 10
    assert said == b"detrigger: interrupted: no class was done yet, so nothing was kept\n"


def test_without_resume_what_was_kept_is_dropped(
    files: Files, tmp_path: Path, capsys: Capture, one_by_one: int
) -> None:
    (kept := tmp_path / scan_command.KEPT).mkdir()
    (kept / "old.safetensors").write_bytes(b"")
    call(capsys, files.scan(None, "--out", str(tmp_path)))
    assert not kept.exists() and (tmp_path / "report.json").exists()


def test_repair_writes_a_model_without_the_backdoor_and_leaves_the_original_alone(
    files: Files, found: Path, tmp_path: Path
) -> None:
    original, out = files.bad.read_bytes(), tmp_path / "new" / "fixed.safetensors"
    words = files.repair(out, "--method", "prune")
    said = process([*words, "--report", str(found / "report.json")])
    assert (said.code, said.err) == (0, "") and files.bad.read_bytes() == original
    sentence = " ".join(said.out.split("\n\n")[0].split())
    assert sentence.startswith("REPAIRED: ") and "'prune fc:in, 1 of 7 neurons' was accepted" in sentence
    assert "2 rescans with fresh seeds say clean; the repaired model is" in sentence and str(
        out
    ) in sentence.replace(" ", "")
    assert list(tree(out.parent)) == [out.name, f"{out.name}.report.html", f"{out.name}.report.json"]
    repaired, images = restored(out, files), files.truth.images
    assert measure.accuracy(repaired, images) == 1
    assert measure.success(repaired, images, files.truth.triggers[0], TARGET) < 0.2


def test_repair_begins_with_the_scan_it_is_given(
    files: Files, found: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def counted(*given: Any, **options: Any) -> scan.Scan:
        seeds.append(options["seed"])
        return scan.scan(*given, **options)

    monkeypatch.setattr(clean, "scan", counted)
    words = files.repair(tmp_path / "fixed.safetensors", "--format", "json", "--method", "prune")
    said = call(capsys, [*words, "--report", str(found / "report.json")])
    assert (said.code, said.err, seeds) == (0, "", [1, 2])  # the rescans alone
    report = json.loads(said.out)
    jsonschema.validate(report, json_schema(), jsonschema.Draft202012Validator)
    assert report == json.loads((tmp_path / "fixed.safetensors.report.json").read_bytes())
    assert report["cleaning"]["repaired"] and report["verdict"] == "backdoored"
    first = json.loads((found / "report.json").read_bytes())
    assert report["classes"] == first["classes"] and report["cost"] == first["cost"]
    assert call(capsys, words).code == 0 and seeds == [1, 2, 0, 1, 2]


def test_a_state_dict_is_repaired_into_a_state_dict(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    model, out = tmp_path / "model.pth", tmp_path / "fixed.pth"
    torch.save(restored(files.bad, files).net.state_dict(), model)
    original = model.read_bytes()
    assert call(capsys, files.repair(out, "--method", "prune", model=model)).code == 0
    state = torch.load(out, weights_only=True)
    assert state.keys() == torch.load(model, weights_only=True).keys() and model.read_bytes() == original
    assert int((restored(out, files).net.get_submodule("fc").weight == 0).all(0).sum()) == 1


def test_a_repair_is_a_patch_that_can_be_put_on_and_taken_off(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, patch = tmp_path / "fixed.safetensors", tmp_path / "new" / "small.patch"
    words = files.repair(out, "--method", "prune", "--report", str(found / "report.json"))
    assert call(capsys, [*words, "--patch", str(patch)]).code == 0
    on, off = tmp_path / "on.safetensors", tmp_path / "off.safetensors"
    said = call(capsys, ["repair", str(files.bad), "--apply", str(patch), "--out", str(on)])
    assert (said.code, said.err) == (0, "") and f"APPLIED:{patch}on{files.bad};" in "".join(said.out.split())
    said = call(capsys, ["repair", str(on), "--revert", str(patch), "--out", str(off)])
    assert (said.code, said.err) == (0, "") and f"REVERTED:{patch}off{on};" in "".join(said.out.split())
    fixed, given, originally, again = (load_file(p) for p in (out, on, files.bad, off))
    for a, b in ((fixed, given), (originally, again)):
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    assert patch.stat().st_size < out.stat().st_size
    for model, how in ((on, "--apply"), (files.bad, "--revert"), (files.clean, "--apply")):
        said = call(capsys, ["repair", str(model), how, str(patch), "--out", str(tmp_path / "no")])
        assert said.code == 2 and "nothing was done" in said.err and not (tmp_path / "no").exists()


def test_a_patch_alone_can_be_written(files: Files, found: Path, tmp_path: Path, capsys: Capture) -> None:
    patch = tmp_path / "small.patch"
    words = ["repair", *files.on(), "--budget", "quick", "--method", "prune", "--patch", str(patch)]
    assert call(capsys, [*words, "--report", str(found / "report.json")]).code == 0
    assert list(tree(tmp_path)) == [patch.name, f"{patch.name}.report.html", f"{patch.name}.report.json"]


def test_a_patch_for_weights_of_another_type_is_refused_before_any_work(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    half, patch = tmp_path / "half.safetensors", tmp_path / "small.patch"
    save_file({n: t.half() if t.is_floating_point() else t for n, t in load_file(files.bad).items()}, half)
    said = call(capsys, ["repair", *files.on(half), "--patch", str(patch)])
    assert said.code == 2 and "no patch fits: " in said.err and "float16" in said.err
    assert list(tree(tmp_path)) == [half.name]


def test_a_repair_that_the_guard_refuses_exits_with_3_and_writes_no_model(
    files: Files, found: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "fixed.safetensors"
    given = ["--report", str(found / "report.json")]
    said = call(capsys, files.repair(out, "--method", "unlearn", *given))  # one epoch costs this one accuracy
    assert (said.code, said.err) == (3, "")
    assert (
        said.out.startswith(f"NOT REPAIRED: {files.bad} is") and "no candidate passed the guard" in said.out
    )
    assert list(tree(tmp_path)) == [f"{out.name}.report.html", f"{out.name}.report.json"]
    generous = ["--guard.accuracy-drop", "0.5", "--guard.recall-drop", "1", "--rounds", "1"]
    generous += ["--guard.target-recall-drop", "1"]
    call(capsys, files.repair(out, "--method", "unlearn", *given, *generous))
    report = json.loads((tmp_path / f"{out.name}.report.json").read_bytes())
    assert [attempt["accepted"] for attempt in report["repairs"]] == [True]


def test_there_is_nothing_to_repair_in_a_clean_model(files: Files, tmp_path: Path, capsys: Capture) -> None:
    said = call(capsys, files.repair(tmp_path / "fixed.safetensors", model=files.clean))
    assert said.code == 0 and said.out.startswith("NOTHING TO REPAIR: ")
    assert list(tree(tmp_path)) == ["fixed.safetensors.report.html", "fixed.safetensors.report.json"]


def test_identify_compares_the_found_trigger_with_the_true_one(
    files: Files, found: Path, capsys: Capture
) -> None:
    words = ["identify", str(files.bad), str(found / TRIGGERS[1]), str(files.known), *files.on()[1:]]
    said = process(words)
    assert (said.code, said.err) == (0, "") and "Overlap of the masks" in said.out
    match = json.loads(call(capsys, [*words, "--format", "json", "--layer", "conv1"]).out)
    assert match["target"] == TARGET and match["success_known"] == 1 and match["success_found"] > 0.75
    assert match["size_known"] == 9 and match["mask_overlap"] > 0
    assert [neurons["layer"] for neurons in match["neurons"]] == ["conv1"]
    assert json.loads(call(capsys, [*words, "--format", "json", "--target", "0"]).out)["success_known"] < 0.1


def test_certify_proves_predictions_of_a_wrapper(files: Files, capsys: Capture) -> None:
    words = ["certify", *files.on(), "--patch-size", "2", "--masks", "2", "--per-class", "2"]
    said = call(capsys, words)
    assert (said.code, said.err) == (0, "") and said.out.startswith("CERTIFIED: ")
    assert "a wrapper, not a repair" in said.out and "4 masks of 7×7 pixels" in said.out
    result = json.loads(call(capsys, [*words, "--format", "json"]).out)
    assert (result["images"], result["masks"], result["mask_size"]) == (12, 4, [7, 7])
    assert 0 <= result["certified"] <= result["defended_accuracy"] <= 1 and result["accuracy"] == 1
    refusal = call(capsys, ["certify", *files.on(), "--patch-size", "13"])
    assert refusal.code == 4 and "--patch-size is 13, wanted 1 to 12" in refusal.err


def test_inspect_tells_safe_from_dangerous_by_its_exit_code(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    marker = tmp_path / "marker"
    dangerous = plain_pickle(tmp_path / "model×.pth", marker, 2)
    said = process(["inspect", str(dangerous)], PYTHONIOENCODING="ascii")  # a terminal without Unicode
    assert (said.code, said.err) == (1, "") and said.out.startswith("DANGEROUS: ") and "system" in said.out
    assert "modelx.pth" in "".join(said.out.split())
    safe = call(capsys, ["inspect", str(files.bad)])
    assert (safe.code, safe.err) == (0, "") and safe.out.startswith("SAFE TO READ: ")
    (told,) = json.loads(call(capsys, ["inspect", str(files.bad), "--format", "json"]).out)
    assert told["format"] == "safetensors" and ["conv2.bias", [7], "float32"] in told["tensors"]
    sarif = call(capsys, ["inspect", str(dangerous), str(files.bad), "--format", "sarif"])
    assert sarif.code == 1 and len(json.loads(sarif.out)["runs"][0]["results"]) == 1
    assert not marker.exists()


def test_methods_lists_everything_that_can_be_asked_for(capsys: Capture) -> None:
    said = call(capsys, ["methods"])
    words = set(said.out.split())
    assert said.code == 0 and {*METHODS, *FAMILIES, *BUDGETS, "neural-cleanse", "auto", "badnets"} <= words
    assert all(len(line) <= 80 for line in said.out.splitlines())


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_itself(command: str, capsys: Capture) -> None:
    said = call(capsys, [command, "--help"])
    assert said.code == 0 and f"Usage: detrigger {command}" in said.out
    assert (
        said.out.count("[required]") == 0
        or "MODEL" in said.out
        or "--out" in said.out
        or "FILE" in said.out
        or "SHELL" in said.out
    )


USAGE = {
    "no command such as this": (["frobnicate"], "Unknown command"),
    "no model": (["scan"], "--data requires an argument; see detrigger scan --help"),
    "unknown option": (["scan", "m", "--data", "d", "--foo"], "Unknown option: --foo"),
    "unknown budget": (["scan", "m", "--data", "d", "--budget", "huge"], '"quick", "standard", "thorough"'),
    "a word too many": (["repair", "m", "n", "--data", "d", "--out", "o"], "Unused Tokens: ['n']"),
    "no number": (["scan", "m", "--data", "d", "--jobs", "x"], "--jobs"),
    "negative seed": (["scan", "m", "--data", "d", "--seed", "-1"], "Must be >= 0"),
    "no jobs": (["scan", "m", "--data", "d", "--jobs", "0"], "--jobs is 0, wanted 1 or more"),
    "classes in words": (["scan", "m", "--data", "d", "--classes", "cat"], "indices separated by commas"),
    "resume what": (["scan", "m", "--data", "d", "--resume"], "--resume needs the --out folder"),
    "no rounds": (["repair", "m", "--data", "d", "--out", "o", "--rounds", "0"], "--rounds is 0"),
    "nowhere to write": (["repair", "m", "--data", "d"], "--data and --out (or --patch) are needed"),
    "no data": (["repair", "m", "--out", "o"], "--data and --out (or --patch) are needed"),
    "on and off": (["repair", "m", "--apply", "p", "--revert", "p", "--out", "o"], "and --out alone"),
    "on to nowhere": (["repair", "m", "--apply", "p"], "and --out alone"),
    "all held out": (["repair", "m", "--data", "d", "--out", "o", "--held-out", "1"], "--held-out is 1"),
    "odd guard": (["repair", "m", "--data", "d", "--out", "o", "--guard.success", "5"], "wanted 0 to 1"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_exits_with_4_and_one_line(case: str, capsys: Capture) -> None:
    words, wanted = USAGE[case]
    said = call(capsys, words)
    assert (said.code, said.out) == (4, "") and said.err.count("\n") == 1
    assert said.err.startswith("detrigger: ") and wanted in said.err


WRONG_FOR_THE_MODEL = {
    "unknown class": (["--classes", "6"], "class 6 does not exist; the model has 0 to 5"),
    "unknown architecture": (["--arch", "nope"], "unknown architecture 'nope'"),
    "unknown device": (["--device", "abacus"], "no device 'abacus'"),
    "no such device": (["--device", "cuda:99"], "is not available"),
    "three means for grey": (["--mean", "0.5,0.5,0.5"], "--mean has 3 values, wanted one"),
    "mean in words": (["--mean", "grey"], "--mean"),
    "infinite mean": (["--mean", "inf"], "wanted finite numbers"),
    "no spread": (["--std", "0"], "--std must be positive"),
    "odd argument": (["--arch-kw", "classes"], "not key=value"),
    "unknown argument": (["--arch-kw", "colour=red"], "cannot be built"),
}


@pytest.mark.parametrize("case", WRONG_FOR_THE_MODEL)
def test_what_does_not_exist_for_this_model_exits_with_4(case: str, files: Files, capsys: Capture) -> None:
    words, wanted = WRONG_FOR_THE_MODEL[case]
    model = ["--arch", ARCH] if "--arch" not in words else []
    said = call(capsys, ["scan", str(files.bad), "--data", str(files.data), *model, *words])
    assert (said.code, said.out) == (4, "") and said.err.count("\n") == 1
    assert said.err.startswith("detrigger: ") and wanted in said.err


def test_an_unknown_repair_exits_with_4(files: Files, tmp_path: Path, capsys: Capture) -> None:
    said = call(capsys, files.repair(tmp_path / "new" / "out.safetensors", "--method", "magic"))
    assert said.code == 4 and "choose auto, prune" in said.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["0.0", "1"], ["0,0,0", "1,1,1"], ["0", "0", "0", "--std=1"]])
def test_mean_and_std_are_told_with_commas_or_spaces(files: Files, words: list[str], capsys: Capture) -> None:
    mean, std = words[:-1], words[-1] if words[-1].startswith("--") else f"--std={words[-1]}"
    channels = 3 if len(",".join(mean).split(",")) == 3 else 1
    given = ["--mean", *mean, std, "--channels", str(channels), "--arch-kw", f"channels={channels}"]
    said = call(capsys, files.scan(None, *given))
    if channels == 3:
        assert said.code == 2 and "do not fit" in said.err  # read well, but this model is for grey images
    else:
        assert said.code in (0, 1, 3) and said.err == ""


def test_a_fault_of_the_program_is_told_in_one_line_and_never_exits_with_1(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(scan_command, "run_scan", fails)
    said = call(capsys, files.scan())
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("detrigger: unexpected ZeroDivisionError in test_cli.py:")
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert "Traceback" in call(capsys, files.scan()).err


def test_out_of_memory_is_told_in_one_line(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(scan_command, "run_scan", fails)
    said = call(capsys, files.scan())
    assert said.code == 2 and said.err.startswith("detrigger: out of memory; ")


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PAUSE", 0)
    said = call(capsys, files.scan(None, "--format", "json"))
    lines = said.err.splitlines()
    assert lines and all(line.startswith("scanning bad.safetensors: ") for line in lines)
    assert lines[-1] == "scanning bad.safetensors: 100%, about 0 min left"
    assert json.loads(said.out)["verdict"]


def test_progress_is_a_bar_on_a_terminal(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = call(capsys, files.scan(None, "--format", "json"))
    assert "scanning bad.safetensors" in said.err and "\x1b[" in said.err and "\x1b" not in said.out
    assert json.loads(said.out)["verdict"]


def test_a_closed_pipe_is_no_error_and_the_exit_code_still_tells_the_verdict(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -0` does
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert cli.run(files.scan(files.clean)) == 0
        assert cli.run(files.scan(files.clean, "--format", "json")) == 0
    assert capsys.readouterr().err == ""


def test_a_full_disk_under_stdout_is_told_in_one_line(
    files: Files, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.run(["inspect", str(files.bad)]) == 2
    assert capsys.readouterr().err.startswith(
        "detrigger: cannot write the result to standard output (No space"
    )


def test_json_is_ascii_whatever_the_names(files: Files, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "bilder"
    for i, (x, y) in enumerate(zip(files.truth.images.x, files.truth.images.y.tolist(), strict=True)):
        (folder := data / f"köter {y}").mkdir(exist_ok=True, parents=True)
        Image.fromarray((x[0] * 255).round().byte().numpy()).save(folder / f"{i}.png")
    said = call(capsys, files.scan(None, "--format", "json", data=data))
    assert said.out.isascii() and json.loads(said.out)["classes"][3]["name"] == "köter 3"


RECIPE = """
[network]
arch = "network.py:make"
arguments = { backdoors = 0 }

[train]
epochs = 6
batch = 16
rate = 0.02

[attack]
name = "badnets"
target = 3
height = 2
width = 2
poison_rate = 0.25
"""


def test_attack_trains_a_model_that_its_recipe_describes(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "network.py").write_bytes(Path(ARCH.removesuffix(":make")).read_bytes())
    (spec := tmp_path / "recipe.toml").write_text(RECIPE)
    before, out = set(tree(tmp_path)), tmp_path / "new" / "model.safetensors"
    words = ["attack", str(spec), "--data", str(files.data), "--test", str(files.data), "--out", str(out)]
    said = call(capsys, words)
    assert (said.code, said.err) == (0, "")
    record = json.loads(said.out)
    assert record == json.loads((tmp_path / "new" / "model.safetensors.json").read_bytes())
    assert record["recipe"]["attack"] == "badnets" and record["poisoned_images"] == 36
    names = ("", ".json", ".trigger.safetensors")
    assert set(tree(tmp_path)) - before == {f"new/{out.name}{ending}" for ending in names}
    trigger, facts = load_trigger(f"{out}.trigger.safetensors")
    assert facts == {"family": "patch", "target": "3"} and trigger.size().item() == 4
    images = files.truth.images
    model = load_classifier(
        out, f"{tmp_path / 'network.py'}:make", {"backdoors": 0}, shape=images.shape, names=tuple("012345")
    )
    assert record["clean_accuracy"] == pytest.approx(measure.accuracy(model, images), abs=1e-6)
    first = out.read_bytes()
    assert call(capsys, words).code == 0 and out.read_bytes() == first


def test_a_recipe_that_asks_for_what_does_not_exist_exits_with_4(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    words = ["--data", str(files.data), "--test", str(files.data), "--out", str(tmp_path / "model")]
    (spec := tmp_path / "recipe.toml").write_text(RECIPE.replace("badnets", "magic"))
    assert "[attack] name is 'magic'" in refused(capsys, ["attack", str(spec), *words], 4)
    assert "cannot be read as TOML" in refused(capsys, ["attack", str(files.data), *words])
    assert list(tree(tmp_path)) == ["recipe.toml"]


def test_a_format_for_pipelines_is_printed_as_it_is_written(
    files: Files, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(files.bad.parent))
    said = call(capsys, files.scan(None, "--format", "sarif", "--out", str(tmp_path)))
    assert (said.code, said.err) == (1, "")
    assert said.out == (tmp_path / "report.sarif").read_text("utf-8") and files.bad.name in said.out
    assert str(files.bad) not in said.out  # seen from the repository


def test_the_summary_of_a_github_step_is_added_to(
    files: Files, found: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (summary := tmp_path / "summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    given = ["--report", str(found / "report.json"), "--method", "prune"]
    assert call(capsys, files.repair(tmp_path / "fixed.safetensors", *given)).code == 0
    told = summary.read_text("utf-8")
    assert told.startswith("before\n## ❌ BACKDOORED: bad.safetensors\n") and "**REPAIRED**" in told
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    said = call(capsys, files.scan(files.clean))
    assert said.code == 0 and said.out.startswith("CLEAN") and said.err.count("\n") == 1
    assert said.err.startswith("detrigger: no summary written to GITHUB_STEP_SUMMARY (")
