"""`detrigger scan`"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from detrigger import engine, memory
from detrigger.budgets import BUDGETS
from detrigger.cli import many
from detrigger.cli.console import note, progress
from detrigger.cli.formats import Format, tell
from detrigger.cli.inputs import InputFlags, read_inputs, spelt
from detrigger.cli.results import KEPT, check_folder, check_links, claimed, clear, read_accepted, write_scan
from detrigger.cluster import cluster
from detrigger.errors import DataError, InputError, OutputError, UsageError
from detrigger.heats import Map
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report.alerts import accept, passes
from detrigger.report.baseline import Acceptance
from detrigger.report.document import document, read
from detrigger.report.schema import Document
from detrigger.report.text import summary
from detrigger.scan import ScanConfig
from detrigger.scan import scan as run_scan

EXITS = {"clean": 0, "backdoored": 1, "inconclusive": 3}


@Parameter(name="*")
@dataclass(frozen=True)
class WorkFlags:
    """Where and by whom the work is done; the result does not depend on it."""

    jobs: int = 1
    """Threads that share the classes."""
    engine: Literal["local", "ray"] = "local"
    """ray spreads the classes over the Ray cluster that RAY_ADDRESS names, else over processes here."""
    gpus: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 0.0
    """With ray: of a GPU for each group of classes, e.g. 0.25; needs --device cuda."""
    memory: str = ""
    """To stay within, as in 8GB; by default half of what is free. Less is slower, and may be too little."""
    resume: bool = False
    """Go on with an interrupted scan in the same --out; models that are done are not scanned again."""
    shard: str = ""
    """Scan only the i-th of n equal parts of the models, given as i/n, to the shared folder --out; detrigger
    merge puts the parts together."""


@dataclass(frozen=True)
class Order:
    """Everything about a scan but the model and the folder for its report."""

    inputs: InputFlags
    config: ScanConfig
    targets: tuple[int, ...]
    memory: str
    jobs: int
    resume: bool
    map: Map
    accepted: tuple[Acceptance, ...]


def scan(
    *models: Path,
    inputs: InputFlags,
    out: Path | None = None,
    format: Format = "text",
    classes: str = "",
    config: Annotated[ScanConfig, Parameter(name="*")] = ScanConfig(),
    work: WorkFlags = WorkFlags(),
    baseline: Path | None = None,
) -> int:
    """Look for a backdoor in a model file, or in many.

    With several models one that cannot be read does not end it. The exit code is then 1 if any is
    backdoored, else 3 if any is in doubt, else 2 if any could not be scanned.

    Parameters
    ----------
    models
        Weights as .safetensors, .pth, .pt or .pt2, an .onnx file, or a model folder of timm or Hugging Face.
    out
        Folder for the report in all formats and for triggers/; without it only the summary is printed. With
        several models, each has its own folder in it, and summary.json stands beside them.
    format
        Of what is printed.
    classes
        Try only these classes as targets: indices separated by commas, e.g. 0,3,7.
    baseline
        File of findings that were accepted, made by detrigger baseline; they do not fail the scan.
    """
    targets = _indices(classes)
    _check(models, work, out)
    names = many.named(models)
    mine = many.share(names, work.shard)
    accepted = read_accepted(baseline)
    if out:
        check_folder(out)
        check_links(*(out / name for name in mine if len(models) > 1 or work.shard))
    with cluster(work.gpus) if work.engine == "ray" else nullcontext(engine.threads(work.jobs)) as run:
        order = Order(inputs, config, targets, work.memory, work.jobs, work.resume, run, accepted)
        if len(models) > 1 or work.shard:
            if out:
                many.announce(out, names)
            return many.conclude(_several(mine, order, out), format, None if work.shard else out)
        report = _scanned(models[0], order, out)
    tell(report, format, summary(report, folder=out, flags=spelt(inputs)))
    return 0 if passes(report) else EXITS[report.verdict]


def _check(models: tuple[Path, ...], work: WorkFlags, out: Path | None) -> None:
    if not models:
        raise UsageError("there is no model to scan; give one or more model files")
    if work.jobs < 1:
        raise UsageError(f"--jobs is {work.jobs}, wanted 1 or more")
    if work.resume and out is None:
        raise UsageError("--resume needs the --out folder of the interrupted scan")
    if work.shard and out is None:
        raise UsageError("--shard needs an --out folder that all jobs share")


def _several(names: dict[str, Path], order: Order, out: Path | None) -> list[many.Outcome]:
    outcomes = []
    try:
        for outcome in _each(names, order, out):
            outcomes.append(outcome)
    except KeyboardInterrupt as error:
        kept = "; what was done is kept, go on with --resume" if out else ""
        raise KeyboardInterrupt(f"{len(outcomes)} of {len(names)} models were scanned{kept}") from error
    return outcomes


def _each(names: dict[str, Path], order: Order, out: Path | None) -> Iterator[many.Outcome]:
    for name, model in names.items():
        folder = out / name if out else None
        try:
            report = _scanned(model, order, folder)
        except OutputError:
            raise
        except InputError as error:
            note(str(error))
            if folder:
                many.failed(folder, str(error))
            yield many.Outcome(str(model), name, error=str(error))
        else:
            if folder:
                many.forget_failure(folder)
            yield many.Outcome(str(model), name, report)


def _scanned(model: Path, order: Order, out: Path | None) -> Document:
    classifier, images = read_inputs(model, order.inputs)
    with claimed(out) if out else nullcontext():
        if order.resume and out and (done := _done(out, classifier, images, order)):
            clear(out)  # it may have been killed at the very end
            return done
        return _searched(classifier, images, order, out)


def _searched(classifier: Classifier, images: Images, order: Order, out: Path | None) -> Document:
    classifier = memory.within(
        classifier,
        images,
        memory.parse(order.memory) if order.memory else memory.free(classifier.device) // 2,
        classes=len(order.targets) or len(classifier.classes),
        batch=max(stage.images for stages in BUDGETS[order.config.budget].values() for stage in stages),
        jobs=order.jobs,
    )
    run = _map(classifier, images, order, out)
    try:
        with progress(f"scanning {Path(classifier.origin.path).name}") as callback:
            result = run_scan(
                classifier,
                images,
                order.config,
                targets=order.targets,
                seed=order.inputs.seed,
                map=run,
                progress=callback,
            )
    except KeyboardInterrupt as error:
        raise _interrupted(out) from error
    if out is None:
        return accept(document(result, model=classifier), order.accepted)
    report = write_scan(out, result, images, classifier, accepted=order.accepted)
    clear(out)
    return report


def _done(out: Path, model: Classifier, images: Images, order: Order) -> Document | None:
    """The report that is there already, if it is of the same scan."""
    try:
        report = read(out / many.REPORT)
    except DataError:
        return None
    classes = list(order.targets) or list(range(len(model.classes)))
    wanted = {**dataclasses.asdict(order.config), "classes": classes}
    inputs = (model.origin.sha256, model.origin.architecture, images.sha256, order.inputs.seed, wanted)
    found = (report.model.sha256, report.model.arch, report.data.sha256, report.seed, report.config)
    same = found == inputs and report.tool.version == importlib.metadata.version("detrigger")
    how = report.model.preprocessing
    same = same and how is not None and (how.mean, how.std) == dataclasses.astuple(model.preprocessing)
    return accept(report, order.accepted) if same else None


def _indices(classes: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(c) for c in classes.split(",") if c.strip()}))
    except ValueError as error:
        raise UsageError(
            f"--classes is {classes!r}, wanted indices separated by commas, e.g. 0,3,7"
        ) from error


def _interrupted(out: Path | None) -> KeyboardInterrupt:
    if out is None or not (out / KEPT).exists():
        return KeyboardInterrupt("no class was done yet, so nothing was kept")
    return KeyboardInterrupt(f"the classes that were done are kept in {out / KEPT}; go on with --resume")


def _map(model: Classifier, images: Images, order: Order, out: Path | None) -> Map:
    if out is None:
        return order.map
    folder = out / KEPT
    if not order.resume:
        shutil.rmtree(folder, ignore_errors=True)
    inputs = {
        "version": importlib.metadata.version("detrigger"),
        "model": model.origin,
        "preprocessing": model.preprocessing,
        "data": images.sha256,
        "config": dataclasses.asdict(order.config),
        "classes": order.targets,
        "seed": order.inputs.seed,
    }
    return engine.remembered(order.map, folder, inputs)
