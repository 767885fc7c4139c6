"""Reports in the Static Analysis Results Interchange Format (SARIF) 2.1.0, as code hosts read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detrigger.files.inspect import Inspection
from detrigger.report import words
from detrigger.report.alerts import Alert, alerts, file_alerts
from detrigger.report.schema import Document
from detrigger.report.taxonomy import Rule, Taxonomy, taxonomies

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
FINGERPRINT = "detrigger/v1"
"""Name of the fingerprint; goes up when its recipe changes."""


def sarif(reports: Sequence[Document], root: Path) -> str:
    """The findings of some scans; paths are told relative to `root`, the folder of the repository.

    A model outside of it is told by its name alone: code hosts refuse absolute paths.
    """
    targets = [
        _Target(
            report.model.path,
            report.model.sha256,
            alerts(report),
            {"verdict": report.verdict, "probability": report.probability},
        )
        for report in reports
    ]
    return _log(reports[0].tool.version, targets, root)


def sarif_of_files(found: Sequence[Inspection], root: Path) -> str:
    """What inspections of files found, likewise."""
    targets = [_Target(f.path, f.sha256, file_alerts(f), {"format": f.format}) for f in found]
    return _log(version("detrigger"), targets, root)


@dataclass(frozen=True)
class _Target:
    """A file that was looked at."""

    path: str
    sha256: str
    alerts: tuple[Alert, ...]
    properties: dict[str, Any]


def _log(tool: str, targets: Sequence[_Target], root: Path) -> str:
    known = taxonomies()
    driver = {
        "name": "detrigger",
        "version": tool,
        "rules": [_rule(rule) for rule in known.rules],
        "supportedTaxonomies": [_reference(i, t) for i, t in enumerate(known.taxonomies)],
    }
    files = {uri(target.path, root): target for target in reversed(targets)}
    uris = list(dict.fromkeys(uri(target.path, root) for target in targets))
    run = {
        "tool": {"driver": driver},
        "taxonomies": [_taxonomy(t) for t in known.taxonomies],
        "invocations": [{"executionSuccessful": True}],
        "artifacts": [_artifact(files[name], name) for name in uris],
        "results": [
            _result(alert, uris.index(uri(alert.model, root)), root)
            for target in targets
            for alert in target.alerts
        ],
        "columnKind": "utf16CodeUnits",
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def uri(path: str, root: Path) -> str:
    """The path seen from `root`, as a relative reference of RFC 3986."""
    return quote(words.relative(path, root))


def _rule(rule: Rule) -> dict[str, Any]:
    known = taxonomies().taxonomies
    links = [
        f"[{entry}]({t.address(entry)}) {t.entries[entry]}"
        for t in known
        for entry in rule.entries
        if entry in t.entries
    ]
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.description},
        "help": {
            "text": rule.help,
            "markdown": f"{rule.help}\n\n" + "".join(f"* {link}\n" for link in links),
        },
        "defaultConfiguration": {"level": rule.level},
        "relationships": [
            {
                "target": {"id": entry, "toolComponent": _reference(i, taxonomy)},
                "kinds": ["relevant"],
            }
            for i, taxonomy in enumerate(known)
            for entry in rule.entries
            if entry in taxonomy.entries
        ],
        "properties": {
            "security-severity": f"{rule.severity:.1f}",
            "precision": "high" if rule.level == "error" else "medium",
            "tags": ["security", "machine-learning", *rule.entries],
        },
    }


def _reference(index: int, taxonomy: Taxonomy) -> dict[str, Any]:
    return {"name": taxonomy.name, "index": index}


def _taxonomy(taxonomy: Taxonomy) -> dict[str, Any]:
    return {
        "name": taxonomy.name,
        "version": taxonomy.version,
        "organization": taxonomy.organization,
        "isComprehensive": False,
        "taxa": [
            {"id": entry, "name": name, "helpUri": taxonomy.address(entry)}
            for entry, name in taxonomy.entries.items()
        ],
    }


def _artifact(target: _Target, name: str) -> dict[str, Any]:
    hashes = {"hashes": {"sha-256": target.sha256}} if target.sha256 else {}
    return {
        "location": {"uri": name, "uriBaseId": "%SRCROOT%"},
        "roles": ["analysisTarget"],
        **hashes,
        "properties": target.properties,
    }


def _result(alert: Alert, artifact: int, root: Path) -> dict[str, Any]:
    known = taxonomies()
    result: dict[str, Any] = {
        "ruleId": alert.rule.id,
        "ruleIndex": known.rules.index(alert.rule),
        "level": alert.rule.level,
        "message": {"text": f"{words.printable(words.relative(alert.model, root))}: {alert.message}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {
                        "uri": uri(alert.model, root),
                        "uriBaseId": "%SRCROOT%",
                        "index": artifact,
                    },
                    "region": {"startLine": 1},
                }
            }
        ],
        "partialFingerprints": {FINGERPRINT: alert.fingerprint},
    }
    if found := alert.backdoor:
        result["properties"] = {
            "target": found.target,
            "family": found.family,
            "size": found.size,
            "success": found.success,
            "probability": found.probability,
        }
    if accepted := alert.accepted:
        result["suppressions"] = [
            {
                "kind": "external",
                "status": "accepted",
                "justification": f"{accepted.reason} (until {accepted.expires})",
            }
        ]
    return result
