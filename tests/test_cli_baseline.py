"""Findings that somebody has accepted."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import samples
from command import TARGET, Files, call, refused, written

from detrigger import cli, scan
from detrigger.cli import scan as scan_command
from detrigger.report.alerts import alerts
from detrigger.report.baseline import Acceptance, Baseline, encode_baseline, read_baseline, valid
from detrigger.report.document import document, encode

Capture = pytest.CaptureFixture[str]
DAY = datetime.date.today() + datetime.timedelta(days=30)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def scans(files: Files) -> dict[str, scan.Scan]:
    return {}


@pytest.fixture(autouse=True)
def scanned_once(scans: dict[str, scan.Scan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model is scanned once for all tests."""

    def once(model: Any, *given: Any, **options: Any) -> scan.Scan:
        key = str(model.origin.path)
        if key not in scans:
            scans[key] = scan.scan(model, *given, **options)
        return scans[key]

    monkeypatch.setattr(scan_command, "run_scan", once)


def accept(
    report: Path, out: Path, *more: str, reason: str = "known", expires: datetime.date | str = DAY
) -> list[str]:
    told = ["--out", str(out), "--reason", reason, "--expires", str(expires)]
    return ["baseline", str(report), *more, *told]


def report_of(folder: Path, made: scan.Scan) -> Path:
    folder.mkdir(exist_ok=True)
    (path := folder / "report.json").write_bytes(encode(document(made)))
    return path


def test_an_accepted_backdoor_is_still_told_but_does_not_fail_the_scan(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    out, accepted = tmp_path / "out", tmp_path / "new" / "accepted.json"
    assert call(capsys, files.scan(None, "--out", str(out))).code == 1
    said = call(capsys, accept(out / "report.json", accepted))
    assert (said.code, said.err) == (0, "") and f"to class {TARGET}" in " ".join(said.out.split())
    said = call(capsys, files.scan(None, "--out", str(out), "--baseline", str(accepted)))
    assert (said.code, said.err) == (0, "") and said.out.startswith("BACKDOORED: ")
    assert "ACCEPTED: every finding is accepted, so the scan passes." in said.out
    report = json.loads((out / "report.json").read_bytes())
    assert report["verdict"] == "backdoored" and report["accepted"][0]["reason"] == "known"
    assert f"Accepted until {DAY} (known)" in " ".join((out / "report.html").read_text("utf-8").split())
    without = call(capsys, files.scan(None, "--baseline", str(accepted), "--format", "json"))
    assert without.code == 0 and json.loads(without.out)["accepted"]


def test_an_acceptance_whose_day_has_passed_no_longer_counts(
    files: Files, tmp_path: Path, capsys: Capture
) -> None:
    out, accepted = tmp_path / "out", tmp_path / "accepted.json"
    call(capsys, files.scan(None, "--out", str(out)))
    call(capsys, accept(out / "report.json", accepted))
    (entry,) = read_baseline(accepted)
    past = Acceptance(fingerprint=entry.fingerprint, reason="old", expires=datetime.date(2020, 1, 1))
    accepted.write_bytes(encode_baseline([past]))
    said = call(capsys, files.scan(None, "--baseline", str(accepted)))
    assert said.code == 1 and "ACCEPTED" not in said.out
    assert said.err == f"note: 1 of 1 findings accepted in {accepted} no longer are: their day has passed\n"


def test_an_acceptance_counts_to_the_end_of_its_day() -> None:
    entry = Acceptance(fingerprint="0" * 32, reason="x", expires=DAY)
    assert valid([entry], DAY) == (entry,) and valid([entry], DAY + datetime.timedelta(days=1)) == ()


def test_a_baseline_is_added_to_and_the_same_finding_is_told_once(tmp_path: Path, capsys: Capture) -> None:
    first = report_of(tmp_path / "a", samples.scan())
    origin = dataclasses.replace(samples.scan().origin, sha256="00" * 32)
    second = report_of(tmp_path / "b", dataclasses.replace(samples.scan(), origin=origin))
    out = tmp_path / "accepted.json"
    call(capsys, accept(first, out, reason="old"))
    said = call(capsys, accept(first, out, str(second)))
    assert said.code == 0 and [a.reason for a in read_baseline(out)] == ["known", "known"]
    said = call(capsys, accept(first, out, reason="new"))
    assert "Kept: 1 that it accepted before." in said.out
    assert sorted(a.reason for a in read_baseline(out)) == ["known", "new"]


def test_there_is_nothing_to_accept_in_a_clean_model(tmp_path: Path, capsys: Capture) -> None:
    report = report_of(tmp_path, samples.scan(verdict="clean"))
    said = call(capsys, accept(report, tmp_path / "accepted.json"))
    assert said.code == 0 and said.out.startswith("There is nothing to accept")
    assert not (tmp_path / "accepted.json").exists()


def test_doubt_can_be_accepted_and_is_not_an_accepted_backdoor(tmp_path: Path, capsys: Capture) -> None:
    report = report_of(tmp_path, samples.scan(verdict="inconclusive"))
    call(capsys, accept(report, out := tmp_path / "accepted.json"))
    (entry,) = read_baseline(out)
    assert entry.finding.startswith("INCONCLUSIVE")
    assert entry.fingerprint != alerts(document(samples.scan()))[0].fingerprint


WRONG = {
    "past": ({"expires": "2020-01-01"}, "--expires is 2020-01-01, which is past"),
    "no day": ({"expires": "soon"}, "--expires"),
    "no reason": ({"reason": " "}, "--reason is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_accepted_is_refused(case: str, tmp_path: Path, capsys: Capture) -> None:
    told, wanted = WRONG[case]
    report = report_of(tmp_path, samples.scan())
    before = report.read_bytes()
    assert wanted in refused(capsys, accept(report, tmp_path / "accepted.json", **told), 4)
    assert "cannot read the report n" in refused(capsys, accept(report, tmp_path / "accepted.json", "n"))
    assert "is read here" in refused(capsys, accept(report, report))
    assert not (tmp_path / "accepted.json").exists() and report.read_bytes() == before
    assert "no report was given" in refused(capsys, ["baseline", *accept(report, report)[2:]], 4)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"baseline_version": 2, "accepted": []}', b'{"accepted": []}', b"[" * 100_000, b"\xff"],
)
def test_what_is_no_baseline_is_refused_before_the_scan(
    content: bytes, files: Files, tmp_path: Path, capsys: Capture
) -> None:
    (path := tmp_path / "accepted.json").write_bytes(content)
    assert "is no baseline" in refused(capsys, files.scan(None, "--baseline", str(path)))
    path.unlink()
    assert "cannot read the baseline" in refused(capsys, files.scan(None, "--baseline", str(path)))


def test_a_baseline_survives_being_written_and_read(tmp_path: Path) -> None:
    entries = [
        Acceptance(fingerprint=c * 32, reason="x", expires=DAY, model=m) for c, m in ("ab", "ba", "ca")
    ]
    (path := tmp_path / "accepted.json").write_bytes(encode_baseline(entries))
    assert set(read_baseline(path)) == set(entries) and path.read_bytes() == encode_baseline(entries[::-1])
    assert Baseline(baseline_version=1, accepted=()).accepted == () and "baseline" in cli.COMMANDS
