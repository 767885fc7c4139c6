"""Terminal: progress with the time left on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detrigger.errors import OutputError

if TYPE_CHECKING:  # it would bring torch, which takes seconds
    from detrigger.heats import Progress as Callback

PAUSE = 30.0
"""Seconds between lines of progress where there is no terminal to draw a bar on."""


@contextmanager
def progress(what: str) -> Iterator[Callback]:
    """A callback that tells on stderr, while the block runs, how far the work is and how long it will take.

    On a terminal it draws a bar, which is gone afterwards; elsewhere it writes a line now and then.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callback:
    began = said = time.monotonic()
    first, last = 0, 0  # units of work when the clock was started, and when it was last looked at

    def callback(done: int, total: int) -> None:
        nonlocal began, said, first, last
        now = time.monotonic()
        if (
            done < last or not last
        ):  # another stretch of work, as a rescan is; or what came before was no work
            began, first = now, done
        last = done
        if done > first and now - said >= PAUSE:
            said = now
            minutes = (now - began) * (total - done) / (done - first) / 60
            sys.stderr.write(f"{what}: {done / total:.0%}, about {minutes:.0f} min left\n")
            sys.stderr.flush()

    return callback


def note(text: str) -> None:
    """A sentence beside the result, on stderr, without control characters: names of files are not trusted."""
    sys.stderr.write("".join(c if c.isprintable() else " " for c in f"note: {text}") + "\n")


def show(result: RenderableType) -> None:
    """A result for a person, on stdout."""
    console = Console()
    with console.capture() as captured:
        console.print(result, crop=False)
    write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def emit(content: bytes) -> None:
    """JSON for a program, on stdout; characters beyond ASCII are escaped, so that every terminal takes it."""
    write(json.dumps(json.loads(content), indent=2) + "\n")


def write(text: str) -> None:
    """Text on stdout.

    A reader that closes early, as `head` does, is no error: the exit code still tells the verdict.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"cannot write the result to standard output ({error.strerror})") from error
