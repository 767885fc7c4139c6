"""Terminal: progress with the time left on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detrigger.invert import Progress as Callback


@contextmanager
def progress(what: str) -> Iterator[Callback]:
    """A callback that draws a bar with the time left, on stderr, while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show(result: RenderableType) -> None:
    """A result for a person, on stdout."""
    Console(soft_wrap=False).print(result)


def emit(text: str) -> None:
    """A result for a program, on stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
