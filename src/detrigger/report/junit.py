"""Reports as JUnit XML, as build servers read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from detrigger.report import words
from detrigger.report.alerts import Alert, alerts
from detrigger.report.schema import Document


def junit(reports: Sequence[Document], root: Path) -> str:
    """One suite per scan with one case per class: it fails for a backdoor to that class.

    Doubt is an error, what somebody has accepted is skipped. After a repair there is one case, which passes
    if the model was clean or is repaired without doubt.
    """
    suites = ElementTree.Element("testsuites", name="detrigger")
    for report in reports:
        suites.append(_repair(report, root) if report.cleaning else _scan(report, root))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _scan(report: Document, root: Path) -> ElementTree.Element:
    model = _model(report, root)
    found = {alert.backdoor.target if alert.backdoor else None: alert for alert in alerts(report)}
    cases = [_case(model, "verdict", found.get(None))] if None in found or not report.classes else []
    for record in report.classes:
        name = f"no backdoor to class {words.called(report.model.classes, record.index)}"
        cases.append(_case(model, name, found.get(record.index)))
    return _suite(report, f"scan {model}", cases)


def _repair(report: Document, root: Path) -> ElementTree.Element:
    model = _model(report, root)
    case = _case(model, "clean or repaired", None)
    cleaning = report.cleaning
    if report.verdict != "clean" and cleaning and (cleaning.doubt or not cleaning.repaired):
        told = words.repair(report)
        kind = "error" if report.verdict == "inconclusive" or cleaning.doubt else "failure"
        ElementTree.SubElement(case, kind, message=told, type=report.verdict).text = told
    return _suite(report, f"repair {model}", [case])


def _suite(report: Document, what: str, cases: Sequence[ElementTree.Element]) -> ElementTree.Element:
    suite = ElementTree.Element(
        "testsuite",
        name=f"detrigger {what}",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=f"{report.cost.seconds or 0:.3f}",
    )
    suite.extend(cases)
    told = " ".join(filter(None, (words.verdict(report), words.repair(report))))
    ElementTree.SubElement(suite, "system-out").text = told
    return suite


def _case(model: str, name: str, alert: Alert | None) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=model, name=name, time="0")
    if alert is None:
        return case
    if alert.accepted:
        accepted = f"{alert.accepted.reason} (until {alert.accepted.expires})"
        ElementTree.SubElement(case, "skipped", message=f"accepted: {words.printable(accepted)}")
        return case
    kind = "failure" if alert.rule.level == "error" else "error"
    told = f"{alert.message}\n{alert.rule.help}\nFingerprint: {alert.fingerprint}"
    ElementTree.SubElement(case, kind, message=alert.message, type=alert.rule.id).text = told
    return case


def _model(report: Document, root: Path) -> str:
    return words.printable(words.relative(report.model.path, root))
