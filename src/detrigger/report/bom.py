"""Reports as a machine-learning bill of materials in CycloneDX 1.6 JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrigger.report import words
from detrigger.report.alerts import Alert, alerts
from detrigger.report.schema import Document, WrittenRecord
from detrigger.report.taxonomy import taxonomies

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def bom(reports: Sequence[Document], root: Path) -> str:
    """Each model as a component with its hash and what the scan measured, and what was found in it."""
    components = {_reference(report): _component(report, root) for report in reports}
    for report in reports:
        if report.written:
            components[f"model:{report.written.sha256}"] = _repaired(report, report.written, root)
    found = [_vulnerability(alert, _reference(report)) for report in reports for alert in alerts(report)]
    content = {
        "metadata": {
            "tools": {
                "components": [
                    {"type": "application", "name": "detrigger", "version": reports[0].tool.version}
                ]
            }
        },
        "components": list(components.values()),
        "vulnerabilities": found,
    }
    # the same content has the same serial number, so that equal runs give equal files
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"detrigger {json.dumps(content, sort_keys=True)}")
    head = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return json.dumps(head | content, indent=2) + "\n"


def _reference(report: Document) -> str:
    return f"model:{report.model.sha256 or 'memory'}"


def _component(report: Document, root: Path) -> dict[str, Any]:
    model = report.model
    hashes = {"hashes": [{"alg": "SHA-256", "content": model.sha256}]} if model.sha256 else {}
    architecture = {"modelArchitecture": words.printable(model.arch)} if model.arch else {}
    return {
        "type": "machine-learning-model",
        "bom-ref": _reference(report),
        "name": words.printable(words.relative(model.path, root)),
        **hashes,
        "modelCard": {
            "modelParameters": {
                "task": "image-classification",
                **architecture,
                "inputs": [{"format": f"image {'×'.join(map(str, model.image_shape))} in [0, 1]"}],
                "outputs": [{"format": f"{len(model.classes)} classes"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(report)},
        },
        "properties": [
            {"name": f"detrigger:{name}", "value": value}
            for name, value in {
                "verdict": report.verdict,
                "probability": f"{report.probability:.6g}",
                "format": model.format,
                "data:sha256 of pixels and labels": report.data.sha256 or words.NONE,
                "data:images": str(report.data.images),
                "seed": str(report.seed),
                "image passes": str(report.cost.image_passes),
            }.items()
        ],
    }


def _repaired(report: Document, written: WrittenRecord, root: Path) -> dict[str, Any]:
    """The model that a repair wrote, with the one it was made from."""
    model = report.model
    ancestor = {
        "type": "machine-learning-model",
        "name": words.printable(words.relative(model.path, root)),
        "hashes": [{"alg": "SHA-256", "content": model.sha256}],
    }
    cleaning = report.cleaning
    last = [r.verdict for r in cleaning.rescans[-1:]] if cleaning else []
    if cleaning and cleaning.doubt:  # of which the last rescan need not know
        last = ["inconclusive"]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{written.sha256}",
        "name": words.printable(words.relative(written.path, root)),
        "hashes": [{"alg": "SHA-256", "content": written.sha256}],
        "pedigree": {"ancestors": [ancestor], "notes": words.repair(report)},
        "properties": [
            {"name": "detrigger:format", "value": written.format},
            *({"name": "detrigger:verdict", "value": verdict} for verdict in last),
        ],
    }


def _metrics(report: Document) -> list[dict[str, str]]:
    metrics = [
        {"type": "accuracy", "value": f"{report.data.accuracy:.6g}", "slice": "clean images of the scan"}
    ] * (report.data.accuracy is not None)
    for found in report.backdoors:
        if found.success is not None:
            slice_ = f"held-out images with the trigger synthesised for class {found.target}"
            metrics.append({"type": "attack success rate", "value": f"{found.success:.6g}", "slice": slice_})
    return metrics


def _vulnerability(alert: Alert, component: str) -> dict[str, Any]:
    accepted = alert.accepted
    analysis: dict[str, Any] = {"state": "exploitable" if alert.rule.level == "error" else "in_triage"}
    if accepted:
        analysis |= {
            "response": ["will_not_fix"],
            "detail": f"Accepted until {accepted.expires}: {words.printable(accepted.reason)}",
        }
    return {
        "bom-ref": f"finding:{alert.fingerprint}",
        "id": f"detrigger-{alert.fingerprint}",
        "source": {"name": "detrigger"},
        "references": [
            {"id": entry, "source": {"name": t.name, "url": t.address(entry)}}
            for t in taxonomies().taxonomies
            for entry in alert.rule.entries
            if entry in t.entries
        ],
        "ratings": [
            {
                "source": {"name": "detrigger"},
                "score": alert.rule.severity,
                "severity": "critical" if alert.rule.level == "error" else "medium",
                "method": "other",
            }
        ],
        "description": alert.message,
        "recommendation": alert.rule.help,
        "analysis": analysis,
        "affects": [{"ref": component}],
    }
