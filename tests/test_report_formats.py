"""Reports for pipelines: SARIF, JUnit, Markdown, CycloneDX."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import msgspec
import pytest
import samples
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from detrigger.files.archive import Finding
from detrigger.files.inspect import Inspection
from detrigger.files.judge import WouldRun
from detrigger.report import words
from detrigger.report.alerts import accept, alerts, passes
from detrigger.report.baseline import Acceptance
from detrigger.report.document import document
from detrigger.report.formats import FORMATS
from detrigger.report.markdown import text
from detrigger.report.sarif import sarif_of_files
from detrigger.report.schema import Document, WrittenRecord
from detrigger.report.taxonomy import taxonomies

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0.json").read_bytes())
SARIF = jsonschema.Draft202012Validator(SCHEMA)
CYCLONEDX = JsonStrictValidator(SchemaVersion.V1_6)
ROOT = Path("/repository")
EVIL = "<b>]]>\x1b[31m & | `x`\n\x00\udcff"
VERDICTS = ("clean", "backdoored", "inconclusive")
DAY = datetime.date(2030, 1, 31)


def scanned(verdict: Any = "backdoored", *, path: str = "/repository/a b/model.safetensors") -> Document:
    return document(samples.scan(verdict=verdict, path=path), model=samples.model())


def two() -> Document:
    """A sure backdoor to class 1, and a less sure one to class 4."""
    scan = samples.scan()
    second = dataclasses.replace(scan.backdoors[0], target=4, size=23.5, probability=0.64)
    classes = [dataclasses.replace(c, suspect=c.index in (1, 4)) for c in scan.finding.classes]
    finding = dataclasses.replace(scan.finding, classes=tuple(classes))
    return document(dataclasses.replace(scan, finding=finding, backdoors=(*scan.backdoors, second)))


def repaired(*, done: bool) -> Document:
    return document(samples.scan(), cleaning=samples.cleaning(repaired=done))


def accepted(report: Document, *which: int) -> Document:
    found = alerts(report)
    return accept(
        report,
        [
            Acceptance(fingerprint=found[i].fingerprint, reason="known | for <b>tests</b>", expires=DAY)
            for i in which
        ],
    )


ALL = {
    "clean": lambda: scanned("clean"),
    "backdoored": scanned,
    "inconclusive": lambda: scanned("inconclusive"),
    "two": two,
    "accepted": lambda: accepted(two(), 0, 1),
    "repaired": lambda: repaired(done=True),
    "not repaired": lambda: repaired(done=False),
    "hostile": lambda: document(samples.scan(3, called=(EVIL, EVIL, "c"), path=EVIL)),
    "in memory": lambda: document(dataclasses.replace(samples.scan(), origin=type(samples.scan().origin)())),
}


def rendered(name: str, *reports: Document) -> str:
    return FORMATS[name].render(reports, ROOT)


def sarif(*reports: Document) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(rendered("sarif", *reports))["runs"][0]
    return run


def suite(report: Document) -> ElementTree.Element:
    (only,) = ElementTree.fromstring(rendered("junit", report))
    return only


def counts(report: Document) -> dict[str, int]:
    return {key: int(suite(report).attrib[key]) for key in ("tests", "failures", "errors", "skipped")}


# alerts


def test_a_clean_model_has_no_findings_and_passes():
    assert alerts(scanned("clean")) == () and passes(scanned("clean"))


def test_doubt_is_a_finding_and_does_not_pass():
    (doubt,) = alerts(scanned("inconclusive"))
    assert doubt.rule.id == "inconclusive" and doubt.message.startswith("INCONCLUSIVE: ")
    assert not passes(scanned("inconclusive"))


def test_a_less_sure_class_beside_a_sure_one_is_a_secondary_suspect():
    first, second = alerts(two())
    assert (first.rule.id, second.rule.id) == ("backdoor", "secondary-suspect")
    assert second.message == (
        "A patch of 23.5 pixels sends 99.8 % of all images to class 4 ('kind 4'); probability 0.64."
    )


def test_backdoors_that_are_about_as_sure_are_all_main():
    scan = samples.scan()
    near = [dataclasses.replace(scan.backdoors[0], probability=p) for p in (0.71, 0.66, 0.6)]
    report = document(dataclasses.replace(scan, backdoors=tuple(near)))
    assert [b.probability for b in words.main(report)] == [0.71, 0.66]


def test_a_fingerprint_is_of_the_model_and_the_class_and_of_nothing_else():
    scan = samples.scan()
    found = scan.backdoors[0]
    (first,) = alerts(document(scan))
    other = dataclasses.replace(found, family="additive", size=2.0, success=0.9, probability=0.7)
    same = dataclasses.replace(scan, backdoors=(other,), seed=9, data_sha256="00" * 32)
    assert alerts(document(same))[0].fingerprint == first.fingerprint
    assert re.fullmatch("[0-9a-f]{32}", first.fingerprint)
    changed = [
        dataclasses.replace(scan, backdoors=(dataclasses.replace(found, target=2),)),
        dataclasses.replace(scan, origin=dataclasses.replace(scan.origin, sha256="00" * 32)),
        samples.scan(verdict="inconclusive"),
    ]
    prints = {alerts(document(s))[0].fingerprint for s in changed}
    assert len(prints) == 3 and first.fingerprint not in prints


def test_a_finding_keeps_its_fingerprint_when_it_becomes_secondary():
    second = two().backdoors[1]
    alone = msgspec.structs.replace(two(), backdoors=(second,))
    assert alerts(alone)[0].fingerprint == alerts(two())[1].fingerprint


def test_a_report_passes_when_every_finding_is_accepted():
    assert [passes(accepted(two(), *which)) for which in ((), (0,), (1,), (0, 1))] == [
        False,
        False,
        False,
        True,
    ]
    other = Acceptance(fingerprint="0" * 32, reason="of another model", expires=DAY)
    assert accept(scanned(), [other]) == scanned()


# SARIF


@pytest.mark.parametrize("case", ALL)
def test_sarif_fits_its_schema(case):
    SARIF.validate(json.loads(rendered("sarif", ALL[case]())))


def test_the_sarif_schema_refuses_a_made_up_key():
    broken = json.loads(rendered("sarif", scanned()))
    broken["runs"][0]["results"][0]["made up"] = 1
    with pytest.raises(jsonschema.ValidationError):
        SARIF.validate(broken)


def test_sarif_names_the_model_relative_to_the_repository():
    run = sarif(scanned())
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "a%20b/model.safetensors" and place["region"]["startLine"] == 1
    assert run["artifacts"][0]["location"]["uri"] == "a%20b/model.safetensors"
    assert run["artifacts"][0]["hashes"] == {"sha-256": "ab" * 32}
    outside = sarif(scanned(path="/repository/../elsewhere/x.pth"))
    assert outside["artifacts"][0]["location"]["uri"] == "x.pth"


def test_sarif_tells_level_fingerprint_and_catalogues():
    run = sarif(two())
    first, second = run["results"]
    assert (first["level"], second["level"]) == ("error", "warning")
    assert first["partialFingerprints"] == {"detrigger/v1": alerts(two())[0].fingerprint}
    rules = run["tool"]["driver"]["rules"]
    assert [rules[r["ruleIndex"]]["id"] for r in run["results"]] == ["backdoor", "secondary-suspect"]
    taxa = {taxon["id"]: taxonomy["name"] for taxonomy in run["taxonomies"] for taxon in taxonomy["taxa"]}
    assert taxa["AML.T0018.000"] == "MITRE ATLAS" and taxa["ML10:2023"].startswith("OWASP")
    related = {r["target"]["id"] for r in rules[0]["relationships"]}
    assert {"AML.T0018.000", "ML10:2023"} <= related <= taxa.keys()
    assert float(rules[0]["properties"]["security-severity"]) == 9


def test_sarif_suppresses_what_is_accepted():
    first, second = sarif(accepted(two(), 1))["results"]
    assert "suppressions" not in first
    assert second["suppressions"][0]["justification"] == "known | for <b>tests</b> (until 2030-01-31)"


def test_several_scans_go_into_one_file():
    run = sarif(scanned(), scanned("clean", path="/repository/b"), scanned(path="/repository/c"))
    assert [a["location"]["uri"] for a in run["artifacts"]] == ["a%20b/model.safetensors", "b", "c"]
    places = [r["locations"][0]["physicalLocation"]["artifactLocation"] for r in run["results"]]
    assert [p["index"] for p in places] == [0, 2] and places[1]["uri"] == "c"
    assert len(ElementTree.fromstring(rendered("junit", scanned(), scanned()))) == 2
    assert len(json.loads(rendered("cyclonedx", scanned(), scanned("clean")))["components"]) == 1


# JUnit


def test_junit_fails_for_a_backdoor_errs_for_doubt_and_skips_what_is_accepted():
    assert counts(scanned("clean")) == {"tests": 10, "failures": 0, "errors": 0, "skipped": 0}
    assert counts(scanned()) == {"tests": 10, "failures": 1, "errors": 0, "skipped": 0}
    assert counts(two()) == {"tests": 10, "failures": 1, "errors": 1, "skipped": 0}
    assert counts(scanned("inconclusive")) == {"tests": 11, "failures": 0, "errors": 1, "skipped": 0}
    assert counts(accepted(two(), 0)) == {"tests": 10, "failures": 0, "errors": 1, "skipped": 1}


def test_junit_says_which_class_it_is():
    (case,) = suite(scanned()).findall("testcase[failure]")
    assert case.attrib["name"] == "no backdoor to class 1 ('kind 1')"
    assert case.attrib["classname"] == "a b/model.safetensors"
    failure = case.find("failure")
    assert failure is not None and alerts(scanned())[0].fingerprint in (failure.text or "")


def test_junit_of_a_repair_fails_unless_the_model_is_repaired():
    assert counts(repaired(done=True)) == {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    assert counts(repaired(done=False)) == {"tests": 1, "failures": 1, "errors": 0, "skipped": 0}
    doubtful = dataclasses.replace(samples.cleaning(), doubt=True)
    report = document(samples.scan(), cleaning=doubtful)
    assert counts(report) == {"tests": 1, "failures": 0, "errors": 1, "skipped": 0}


@pytest.mark.parametrize("case", ALL)
def test_junit_is_well_formed(case):
    root = ElementTree.fromstring(rendered("junit", ALL[case]()))
    assert root.tag == "testsuites" and root[0].findtext("system-out")


# Markdown


def test_markdown_begins_with_the_verdict_and_has_the_evidence():
    page = rendered("markdown", accepted(two(), 1))
    assert page.startswith("## ❌ BACKDOORED: model.safetensors\n\nA patch of 4.0 pixels sends 99.8 % of")
    for told in (*(a.fingerprint for a in alerts(two())), "AML.T0018.000", "| suspect |", "| secondary |"):
        assert told in page
    assert "accepted until 2030-01-31: known \\| for &lt;b&gt;tests&lt;/b&gt;" in page
    assert rendered("markdown", scanned("clean")).startswith("## ✅ CLEAN: a b/model.safetensors")
    assert "**REPAIRED**: after 1 round" in rendered("markdown", repaired(done=True))


@pytest.mark.parametrize(
    ("told", "never"),
    [
        ("<img src=x>", "<"),
        ("[a](javascript:x)", "[a]("),
        ("![a](b)", "!["),
        ("@everyone", "@everyone"),
        ("https://evil.example", "https://"),
        ("a|b", " a|b"),
        ("`code`", " `"),
        ("line\n# heading", "\n"),
        ("\u202e", "\u202e"),
    ],
)
def test_names_cannot_become_markup_in_markdown(told, never):
    assert never not in f" {text(told)}"


# CycloneDX


@pytest.mark.parametrize("case", ALL)
def test_the_bill_of_materials_fits_the_schema_of_cyclonedx(case):
    told = rendered("cyclonedx", ALL[case]())
    assert CYCLONEDX.validate_str(told) is None


def test_the_bill_of_materials_has_the_model_with_its_hash():
    told = json.loads(rendered("cyclonedx", accepted(scanned(), 0)))
    (component,) = told["components"]
    assert component["type"] == "machine-learning-model" and component["name"] == "a b/model.safetensors"
    assert component["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    (found,) = told["vulnerabilities"]
    assert found["affects"] == [{"ref": component["bom-ref"]}]
    assert found["analysis"]["response"] == ["will_not_fix"]
    assert json.loads(rendered("cyclonedx", scanned("clean")))["vulnerabilities"] == []


def test_the_bill_of_materials_tells_what_a_repaired_model_was_made_from():
    written = WrittenRecord(
        path="/repository/fixed.safetensors", sha256="ef" * 32, format="safetensors", difference=0.0
    )
    told = rendered("cyclonedx", msgspec.structs.replace(repaired(done=True), written=written))
    assert CYCLONEDX.validate_str(told) is None
    original, made = json.loads(told)["components"]
    assert made["name"] == "fixed.safetensors" and made["hashes"][0]["content"] == "ef" * 32
    assert made["pedigree"]["ancestors"][0]["hashes"] == original["hashes"]
    assert {"name": "detrigger:verdict", "value": "clean"} in made["properties"]


def test_the_bill_of_materials_calls_no_repair_in_doubt_clean():
    """Though its last rescan is: an earlier one raised an alarm."""
    written = WrittenRecord(path="/repository/fixed.npz", sha256="ef" * 32, format="npz", difference=0.0)
    report = repaired(done=True)
    assert report.cleaning is not None and report.cleaning.rescans[-1].verdict == "clean"
    doubtful = msgspec.structs.replace(report.cleaning, doubt=True)
    told = rendered("cyclonedx", msgspec.structs.replace(report, written=written, cleaning=doubtful))
    _, made = json.loads(told)["components"]
    verdicts = [p["value"] for p in made["properties"] if p["name"] == "detrigger:verdict"]
    assert verdicts == ["inconclusive"]


# files


def test_sarif_of_files_names_what_is_dangerous():
    bad = Inspection(
        path="/repository/a b.pkl",
        format="pickle",
        description="a pickle",
        size_bytes=1,
        sha256="ab" * 32,
        tensors=(),
        parameters=0,
        would_run=tuple(WouldRun(f"os.\x1b{i}", "call", "") for i in range(5)),
        findings=(Finding("low", "harmless"),),
        dangerous=True,
    )
    good = dataclasses.replace(bad, path="/repository/good.pt", would_run=(), dangerous=False)
    told = sarif_of_files([good, bad], ROOT)
    SARIF.validate(json.loads(told))
    run = json.loads(told)["runs"][0]
    (result,) = run["results"]
    assert result["ruleId"] == "unsafe-file" and result["level"] == "error"
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert (place["uri"], place["index"]) == ("a%20b.pkl", 1)
    message = result["message"]["text"]
    assert message.count("would call os.\\x1b") == 3 and message.endswith("; and 2 more.")
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "unsafe-file"
    SARIF.validate(json.loads(sarif_of_files([], ROOT)))


# all


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_report_gives_the_same_bytes_without_control_characters(name):
    told = rendered(name, ALL["hostile"]())
    assert told == rendered(name, ALL["hostile"]()) and told.endswith("\n")
    assert "\x1b" not in told and "\x00" not in told and told.encode()


def test_every_entry_of_a_rule_is_in_a_catalogue_that_tells_its_version_and_source():
    known = taxonomies()
    entries = {entry for taxonomy in known.taxonomies for entry in taxonomy.entries}
    assert {entry for rule in known.rules for entry in rule.entries} == entries
    assert all(t.version and "commit" in t.source for t in known.taxonomies)
