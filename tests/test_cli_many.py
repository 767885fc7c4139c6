"""Many models at once: one summary, one exit code, parts of it by several jobs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from command import Files, call, refused, tree, written

from detrigger.budgets import BUDGETS
from detrigger.cli import run
from detrigger.cli import scan as scan_command
from detrigger.report.many import ModelLine, exit_code, summarised, summary_schema

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def one_family() -> Iterator[None]:
    """The quick budget searches for additive patterns alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "quick", {"additive": BUDGETS["quick"]["additive"]})
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Both networks in one architecture; and a file that is no model."""
    made = written(tmp_path_factory.mktemp("files"))
    shutil.copy(made.bad, made.bad.with_name("again.safetensors"))
    made.bad.with_name("broken.safetensors").write_bytes(made.bad.read_bytes()[:-9])
    return made


def words(files: Files, *names: str, more: tuple[str, ...] = ()) -> list[str]:
    paths = [str(files.bad.with_name(f"{name}.safetensors")) for name in names]
    first, *rest = files.scan(None, *more)
    return [first, *paths, *rest[1:]]


def outcomes(summary: str | bytes) -> list[str]:
    content = json.loads(summary)
    jsonschema.validate(content, summary_schema())
    return [model["outcome"] for model in content["models"]]


@pytest.fixture(scope="module")
def folder(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a scan of three models, one of which is broken."""
    out = tmp_path_factory.mktemp("many") / "out"
    assert run(words(files, "bad", "broken", "again", more=("--out", str(out)))) == 1
    return out


def without_cost(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_bytes())
    return {key: value for key, value in report.items() if key != "cost"}


def test_each_model_has_its_folder_and_one_that_cannot_be_read_does_not_end_it(folder: Path) -> None:
    assert outcomes((folder / "summary.json").read_bytes()) == ["backdoored", "failed", "backdoored"]
    assert {path.name for path in folder.iterdir()} == {
        "again",
        "bad",
        "broken",
        "models.json",
        "summary.json",
    }
    assert list(tree(folder / "broken")) == ["failed.json"]
    assert {"report.json", "report.html", "report.sarif"} <= tree(folder / "bad").keys()
    first, failed, _ = json.loads((folder / "summary.json").read_bytes())["models"]
    assert first["targets"] == ["2"] and first["folder"] == "bad" and len(first["sha256"]) == 64
    assert failed["error"].startswith(failed["path"]) and "damaged safetensors" in failed["error"]


def test_a_table_tells_all_models_the_worst_first(folder: Path, capsys: Capture) -> None:
    said = call(capsys, ["merge", str(folder)])
    assert said.code == 1 and "3 models: 2 backdoored, 1 failed" in said.out and said.err == ""
    starts = [line.split()[0] for line in said.out.splitlines() if line.strip()]
    assert [word for word in starts if word in ("backdoored", "failed")] == ["backdoored"] * 2 + ["failed"]
    assert outcomes(call(capsys, ["merge", str(folder), "--format", "json"]).out)[1] == "failed"
    results = json.loads(call(capsys, ["merge", str(folder), "--format", "sarif"]).out)["runs"][0]["results"]
    assert len(results) == 2


def test_without_a_folder_the_summary_is_printed_alone(files: Files, capsys: Capture) -> None:
    said = call(capsys, words(files, "bad", "broken", more=("--format", "json")))
    assert said.code == 1 and outcomes(said.out) == ["backdoored", "failed"]
    assert said.err.count("\n") == 1 and said.err.startswith("note: ")


def test_jobs_share_the_models_and_merge_puts_them_together(
    files: Files, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    def job(shard: str) -> int:
        more = ("--out", str(tmp_path), "--shard", shard)
        return call(capsys, words(files, "bad", "broken", "again", more=more)).code

    assert job("2/2") == 2  # the broken one
    said = call(capsys, ["merge", str(tmp_path)])
    assert said.code == 2 and "3 models: 1 failed, 2 missing" in said.out
    assert job("1/2") == 1
    assert call(capsys, ["merge", str(tmp_path)]).code == 1
    for name in ("bad", "again"):
        one, other = (without_cost(where / name / "report.json") for where in (folder, tmp_path))
        assert one == other
    both = [json.loads((where / "summary.json").read_bytes()) for where in (folder, tmp_path)]
    for summary in both:
        for model in summary["models"]:
            del model["seconds"]
    assert both[0] == both[1]


def test_models_that_are_done_are_not_scanned_again(
    files: Files, folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(folder, tmp_path / "out")
    scanned: list[str] = []
    run_scan = scan_command.run_scan
    monkeypatch.setattr(
        scan_command,
        "run_scan",
        lambda model, *a, **k: scanned.append(model.origin.path) or run_scan(model, *a, **k),
    )
    more = ("--out", str(out), "--resume")
    before = tree(out)
    assert call(capsys, words(files, "bad", "broken", "again", more=more)).code == 1
    assert scanned == [] and tree(out) == before
    (out / "bad" / "report.json").unlink()
    assert call(capsys, words(files, "bad", "broken", "again", more=more)).code == 1
    assert [Path(path).stem for path in scanned] == ["bad"]
    scanned.clear()
    assert call(capsys, words(files, "bad", more=(*more, "--seed", "1"))).code in {1, 3}
    call(capsys, words(files, "bad", "again", more=(*more, "--seed", "1")))
    assert [Path(path).stem for path in scanned] == ["bad", "bad", "again"]


def test_an_interruption_tells_how_many_models_are_done(
    files: Files, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_scan, calls = scan_command.run_scan, iter("ab")

    def second_interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == "b":
            raise KeyboardInterrupt
        return run_scan(*arguments, **options)

    monkeypatch.setattr(scan_command, "run_scan", second_interrupted)
    said = call(capsys, words(files, "bad", "again", more=("--out", str(tmp_path))))
    assert said.code == 130
    assert said.err == (
        "detrigger: interrupted: 1 of 2 models were scanned; what was done is kept, go on with --resume\n"
    )
    assert outcomes_of_merge(tmp_path, capsys) == ["backdoored", "missing"]


def outcomes_of_merge(folder: Path, capsys: Capture) -> list[str]:
    return outcomes(call(capsys, ["merge", str(folder), "--format", "json"]).out)


def test_models_of_one_name_get_folders_of_their_own() -> None:
    paths = [Path(name) for name in ("a/m.pth", "b/m.pth", "m-2.pth", "c/m.onnx", "d.e/m")]
    names = scan_command.many.named(paths)
    assert list(names.values()) == paths and len(names) == 5
    assert list(names)[:2] == ["m", "m-2"]


@pytest.mark.parametrize("shard", ["1", "0/2", "3/2", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_does_not_exist_is_refused(
    shard: str, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    more = ("--out", str(tmp_path / "new"), f"--shard={shard}")
    assert "wanted i/n with i from 1 to n" in refused(capsys, words(files, "bad", more=more), 4)
    assert not (tmp_path / "new").exists()


def test_command_lines_for_many_that_make_no_sense(files: Files, tmp_path: Path, capsys: Capture) -> None:
    assert "there is no model to scan" in refused(capsys, words(files), 4)
    assert "is given twice" in refused(capsys, words(files, "bad", "bad"), 4)
    assert "--shard needs an --out" in refused(capsys, words(files, "bad", more=("--shard", "1/2")), 4)
    assert "cannot be read" in refused(capsys, ["merge", str(tmp_path)])
    (tmp_path / "models.json").write_text('{"../x": "y"}')
    assert "outside of" in refused(capsys, ["merge", str(tmp_path)])
    (tmp_path / "models.json").write_text("[1]")
    assert "cannot be read" in refused(capsys, ["merge", str(tmp_path)])


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (["clean"], 0),
        (["clean", "failed"], 2),
        (["clean", "missing"], 2),
        (["inconclusive", "failed"], 3),
        (["failed", "inconclusive", "backdoored"], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(found: list[Any], code: int) -> None:
    models = [ModelLine(path="m", folder="m", outcome=outcome) for outcome in found]
    assert exit_code(summarised(models)) == code
    accepted = [ModelLine(path="m", folder="m", outcome=o, accepted=o != "clean") for o in found]
    assert exit_code(summarised(accepted)) == 0
