"""Our own scanner, at a budget named in place of a checkout: standard (default), quick, thorough, or
neural-cleanse for the published method as we have it."""

from __future__ import annotations

from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.scan import ScanConfig, scan


def peer(budget: str):
    config = (
        ScanConfig(synthesis="neural-cleanse")
        if budget == "neural-cleanse"
        else ScanConfig(budget or "standard")
    )

    def ask(model, x, y, classes):
        names = tuple(map(str, range(classes)))
        found = scan(Classifier(model, names, tuple(x.shape[1:])), Images(x, y, names), config)
        finding = found.finding
        return {
            "statistic": [one.probability for one in finding.classes],
            "verdict": finding.verdict,
            "targets": [one.target for one in found.backdoors] if finding.verdict == "backdoored" else [],
            "score": finding.probability,
            "rule": "its own three-valued verdict",
        }

    return ask
