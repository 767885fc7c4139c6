"""Results into report.json and back."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import torch

from detrigger.clean import Cleaning
from detrigger.errors import DataError
from detrigger.finding import ClassFinding, Finding
from detrigger.identify import Match
from detrigger.model import Classifier
from detrigger.report import schema
from detrigger.report.document_repair import cleaning_values, repair_values
from detrigger.scan import Backdoor, Cost, Scan
from detrigger.trigger import Trigger


def document(
    scan: Scan,
    *,
    cleaning: Cleaning | None = None,
    matches: Sequence[Match] = (),
    trigger_folder: str = "triggers",
    model: Classifier | None = None,
) -> schema.Document:
    """Everything that is known, in the shape of report.json.

    `trigger_folder` is where the backdoors' files are, relative to the report: parameters in
    `class_7.safetensors`, a picture in `class_7.png` (`class_7_2` for a second one of class 7).
    `model`, if given, adds the preprocessing that was done.
    """
    finding = scan.finding
    values = {
        "schema_version": schema.VERSION,
        "tool": {
            "name": "detrigger",
            "version": version("detrigger"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "model": _model(scan, model),
        "data": {
            "path": scan.data_path,
            "sha256": scan.data_sha256,
            "images": scan.images,
            "accuracy": scan.accuracy,
            "recalls": scan.recalls,
        },
        "verdict": finding.verdict,
        "probability": finding.probability,
        "reasons": finding.reasons,
        "classes": finding.classes,
        "backdoors": _backdoors(scan, trigger_folder),
        "repairs": [repair_values(a) for a in cleaning.attempts] if cleaning else (),
        "cost": scan.cost,
        "seed": scan.seed,
        "config": scan.config,
        "family": scan.family,
        "cleaning": cleaning_values(cleaning) if cleaning else None,
        "identification": list(matches),
    }
    return msgspec.convert(_plain(values), schema.Document)


def records(matches: Sequence[Match]) -> tuple[schema.MatchRecord, ...]:
    """Found triggers beside known ones, in the shape of report.json."""
    return msgspec.convert(_plain(list(matches)), tuple[schema.MatchRecord, ...])


def encode(report: schema.Document) -> bytes:
    """report.json: UTF-8, indented, keys in the order of the schema, a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode(content: bytes) -> schema.Document:
    """What `encode` wrote. Raises DataError for anything else."""
    try:
        head = msgspec.json.decode(content)
        found = head.get("schema_version") if isinstance(head, dict) else None
        if found != schema.VERSION:
            raise DataError(
                f"schema_version of the report is {found!r}, wanted {schema.VERSION}; "
                "give a report.json written by this version of detrigger scan"
            )
        return msgspec.json.decode(content, type=schema.Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"not a detrigger report ({reason}); give a report.json written by detrigger scan"
        ) from error


def read(path: Path | str) -> schema.Document:
    """The report in a file. Raises DataError if there is none or it is malformed."""
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot read the report {path} ({reason}); check the path") from error


def restore(report: schema.Document, model: Classifier, load: Callable[[str], Trigger]) -> Scan:
    """The scan that a report tells of, for a repair to begin with.

    `load` gives the trigger of a file named in the report. Raises DataError if the report is about another
    model: other bytes, other classes or another shape of images.
    """
    _check(report, model)
    told = report.model
    return Scan(
        finding=Finding(report.verdict, report.probability, report.reasons, _findings(report.classes)),
        backdoors=tuple(_backdoor(b, load(b.trigger)) for b in report.backdoors),
        family=report.family,
        origin=model.origin,
        classes=told.classes,
        image_shape=told.image_shape,
        data_path=report.data.path,
        data_sha256=report.data.sha256,
        images=report.data.images,
        accuracy=_figure(report.data.accuracy),
        recalls=tuple(_figure(r) for r in report.data.recalls),
        cost=Cost(
            seconds=_figure(report.cost.seconds),
            cpu_seconds=_figure(report.cost.cpu_seconds),
            image_passes=report.cost.image_passes,
            device=report.cost.device,
            precision=report.cost.precision,
        ),
        seed=report.seed,
        config=report.config,
    )


def _check(report: schema.Document, model: Classifier) -> None:
    """Is the report about this model?"""
    told, origin = report.model, model.origin
    if told.sha256 and origin.sha256 and told.sha256 != origin.sha256:
        raise DataError(
            f"the report is about a model with sha256 {told.sha256[:12]}…, this one has "
            f"{origin.sha256[:12]}…; scan this model first"
        )
    if told.image_shape != model.image_shape or len(told.classes) != len(model.classes):
        raise DataError(
            f"the report is about {len(told.classes)} classes and images of {told.image_shape}, "
            f"the model has {len(model.classes)} and takes {model.image_shape}; scan this model first"
        )
    named = {i for b in report.backdoors for i in (b.target, *(() if b.sources == "all" else b.sources))}
    named |= {c.index for c in report.classes}
    if max(named, default=0) >= len(model.classes):
        raise DataError(
            f"the report names class {max(named)}, the model has 0 to {len(model.classes) - 1}; "
            "scan this model first"
        )


def _findings(records: Sequence[schema.ClassRecord]) -> tuple[ClassFinding, ...]:
    return tuple(
        ClassFinding(
            index=r.index,
            name=r.name,
            size=_figure(r.size),
            log_size_score=_figure(r.log_size_score),
            p_value=_figure(r.p_value),
            success=_figure(r.success),
            inverted=r.inverted,
            suspect=r.suspect,
            best=r.best,
            probability=r.probability,
            evidence={name: _figure(value) for name, value in r.evidence.items()},
        )
        for r in records
    )


def _backdoor(record: schema.BackdoorRecord, trigger: Trigger) -> Backdoor:
    return Backdoor(
        target=record.target,
        sources=record.sources,
        family=record.family,
        trigger=trigger,
        size=_figure(record.size),
        success=_figure(record.success),
        probability=_figure(record.probability),
    )


def _figure(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """JSON values only: figures that are not finite become None, odd characters are spelt out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return _plain(str(value))


def _model(scan: Scan, model: Classifier | None) -> dict[str, Any]:
    origin = scan.origin
    return {
        "path": origin.path,
        "sha256": origin.sha256,
        "format": origin.format,
        "arch": origin.architecture,
        "classes": scan.classes,
        "image_shape": scan.image_shape,
        "preprocessing": model.preprocessing if model else None,
        "probabilities": model.probabilities if model else None,
        "notes": origin.notes,
    }


def _backdoors(scan: Scan, folder: str) -> list[dict[str, Any]]:
    records, seen = [], dict[int, int]()
    for b in scan.backdoors:
        seen[b.target] = seen.get(b.target, 0) + 1
        again = f"_{seen[b.target]}" if seen[b.target] > 1 else ""
        stem = PurePosixPath(folder) / f"class_{b.target}{again}"
        record = {f.name: getattr(b, f.name) for f in dataclasses.fields(b) if f.name != "trigger"}
        records.append(record | {"trigger": f"{stem}.safetensors", "picture": f"{stem}.png"})
    return records
