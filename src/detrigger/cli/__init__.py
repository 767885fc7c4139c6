"""The command line: parse, call, print, exit code. Commands are imported only when they are called."""

from __future__ import annotations

import importlib.metadata
import os
import sys

from cyclopts import App, CycloptsError

from detrigger.errors import DetriggerError, UsageError

EXIT_CODES = """
Exit codes: 0 analysed and clean (or repaired), 1 backdoor found (or file dangerous), 2 bad input,
3 inconclusive (or no repair passed the guard), 4 usage, 130 interrupted.
"""

COMMANDS = {
    "scan": "Look for a backdoor in a model file.",
    "repair": "Scan, repair under a guard, rescan, and write the repaired model.",
    "identify": "Compare a found trigger with a known one.",
    "inspect": "Say what a file is and what it would run, without running it.",
    "attack": "Train a model from a recipe, with a backdoor or without, for experiments.",
    "demo": "See it work on real MNIST digits: scan, identify, repair, prove.",
    "methods": "List what can be searched for, which repairs and which attacks there are.",
}


def build() -> App:
    """The program, its commands not yet imported."""
    app = App(
        name="detrigger",
        help="Find, identify and remove backdoors in image classifiers.",
        help_epilogue=EXIT_CODES,
        version=importlib.metadata.version("detrigger"),
    )
    for name, summary in COMMANDS.items():
        app.command(f"detrigger.cli.{name}:{name}", name=name, help=summary)
    return app


def run(words: list[str]) -> int:
    """Exit code for a command line; anything said about a failure is one line on stderr."""
    try:
        code = build()(
            words,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _say(f"{_line(error)}; see detrigger --help", 4)
    except UsageError as error:
        return _say(_line(error), 4)
    except DetriggerError as error:
        return _say(_line(error), 2)
    except MemoryError:
        return _say("out of memory; use fewer images or --budget quick", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt:
        return _say(
            "interrupted; nothing was written but the work kept for --resume, if --out was given", 130
        )


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))


def _line(error: Exception) -> str:
    """An error's message on one line, without control characters: file and class names are not trusted."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(error).split()))


def _say(line: str, code: int) -> int:
    sys.stderr.write(f"detrigger: {line}\n")
    return code
