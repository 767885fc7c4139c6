"""`detrigger scan`"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from detrigger import engine
from detrigger.cli.console import progress
from detrigger.cli.formats import Format, tell
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.cli.results import check_folder, claimed, made, read_accepted, write_scan
from detrigger.errors import UsageError
from detrigger.heats import Chunk, Map, Tensors
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.report.alerts import accept, passes
from detrigger.report.document import document
from detrigger.report.text import summary
from detrigger.scan import ScanConfig
from detrigger.scan import scan as run_scan

EXITS = {"clean": 0, "backdoored": 1, "inconclusive": 3}
KEPT = ".detrigger-work"
"""Folder in --out with the results of an unfinished scan."""


def scan(
    model: Path,
    /,
    *,
    inputs: InputFlags,
    out: Path | None = None,
    format: Format = "text",
    classes: str = "",
    config: Annotated[ScanConfig, Parameter(name="*")] = ScanConfig(),
    jobs: int = 1,
    resume: bool = False,
    baseline: Path | None = None,
) -> int:
    """Look for a backdoor in a model file.

    Parameters
    ----------
    model
        Weights: .safetensors, or a state dict .pth/.pt.
    out
        Folder for the report in all formats and for triggers/; without it only the summary is printed.
    format
        Of what is printed.
    classes
        Try only these classes as targets: indices separated by commas, e.g. 0,3,7.
    jobs
        Threads that share the classes; the result does not depend on it.
    resume
        Go on with an interrupted scan in the same --out.
    baseline
        File of findings that were accepted, made by detrigger baseline; they do not fail the scan.
    """
    targets = _indices(classes)
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}, wanted 1 or more")
    if resume and out is None:
        raise UsageError("--resume needs the --out folder of the interrupted scan")
    accepted = read_accepted(baseline)
    if out:
        check_folder(out)
    classifier, images = read_inputs(model, inputs)
    with claimed(out) if out else nullcontext():
        run = _map(classifier, images, config, inputs.seed, jobs, out, resume=resume)
        try:
            with progress("scanning classes") as callback:
                result = run_scan(
                    classifier, images, config, targets=targets, seed=inputs.seed, map=run, progress=callback
                )
        except KeyboardInterrupt as error:
            raise _interrupted(out) from error
        if out:
            report = write_scan(out, result, images, classifier, accepted=accepted)
            shutil.rmtree(out / KEPT, ignore_errors=True)
        else:
            report = accept(document(result, model=classifier), accepted)
    tell(report, format, summary(report, folder=out))
    return 0 if passes(report) else EXITS[result.finding.verdict]


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


def _map(
    model: Classifier,
    images: Images,
    config: ScanConfig,
    seed: int,
    jobs: int,
    out: Path | None,
    *,
    resume: bool,
) -> Map:
    run: Map = engine.threads(jobs) if jobs > 1 else map
    if out is None:
        return run
    folder = out / KEPT
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    remembered = engine.remembered(
        run,
        folder,
        {
            "version": importlib.metadata.version("detrigger"),
            "model": model.origin,
            "preprocessing": model.preprocessing,
            "data": images.sha256,
            "config": dataclasses.asdict(config),
            "seed": seed,
        },
    )

    def kept(function: Callable[[Chunk], Tensors], chunks: Iterable[Chunk], /) -> Iterable[Tensors]:
        def work(chunk: Chunk) -> Tensors:
            result = function(chunk)
            made(folder)  # not before there is something to keep
            return result

        return remembered(work, chunks)

    return kept
