"""The command line: parse, call, print, exit code. Commands are imported only when they are called."""

from __future__ import annotations

import codecs
import io
import os
import sys
import traceback
import warnings

from cyclopts import App, CycloptsError

from detrigger.cli.config import configured
from detrigger.errors import DetriggerError, UsageError

EXIT_CODES = (
    "Exit codes: 0 analysed and clean (or repaired), 1 backdoor found (or file dangerous), 2 bad input, "
    "3 inconclusive (or no repair passed the guard, or it is in doubt), 4 usage, 130 interrupted."
)

COMMANDS = {
    "scan": "Look for a backdoor in a model file, or in many.",
    "merge": "Put together what the jobs of scan --shard found out.",
    "repair": "Scan, repair under a guard, rescan, and write the repaired model.",
    "identify": "Compare a found trigger with a known one.",
    "certify": "Say for how many images no patch up to a size changes the answer of a wrapped model.",
    "inspect": "Say what a file is and what it would run, without running it.",
    "baseline": "Accept the findings of reports for a while, so that they do not fail a pipeline.",
    "attack": "Train a model from a recipe, with a backdoor or without, for experiments.",
    "demo": "See it work on real MNIST digits: scan, identify, repair, prove.",
    "bench": "Measure scanner and repair on models whose truth is known.",
    "completion": "Print what makes a shell complete commands and flags.",
    "methods": "List what can be searched for, which repairs and which attacks there are.",
}

INTERRUPTED = 130

TRACEBACK = "DETRIGGER_TRACEBACK"
"""Environment variable that, set to anything, shows where an unexpected error came from."""

PLAIN = {"×": "x", "–": "-", "—": "-", "…": ".", "─": "-", "’": "'"}
"""Stand-ins for a terminal without these characters."""


def build() -> App:
    """The program, its commands not yet imported."""
    app = App(
        name="detrigger",
        help="Find, identify and remove backdoors in image classifiers.",
        help_epilogue=EXIT_CODES,
        version=_version,
        suppress_keyboard_interrupt=False,
        config=[configured],
    )
    for name, summary in COMMANDS.items():
        app.command(f"detrigger.cli.{name}:{name}", name=name, help=summary)
    return app


def run(words: list[str]) -> int:
    """Exit code for a command line; anything said about a failure is one line on stderr."""
    try:
        return _run(words)
    except CycloptsError as error:
        asked = next((word for word in words if word in COMMANDS), "")
        return _say(f"{_line(error).rstrip('., ')}; see detrigger {asked}{' ' * bool(asked)}--help", 4)
    except UsageError as error:
        return _say(_line(error), 4)
    except DetriggerError as error:
        return _say(_line(error), 2)
    except MemoryError:
        return _say("out of memory; use fewer images or --budget quick", 2)
    except KeyboardInterrupt as error:
        return _say(": ".join(filter(None, ("interrupted", _line(error)))), INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - Python's own exit code would be 1, which means a backdoor
        return _unexpected(error)


def main() -> None:
    """Entry point."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, and about their use; the user can do nothing
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("detrigger", _stand_in)
        sys.stdout.reconfigure(errors="detrigger")
    code = run(sys.argv[1:])
    if code == INTERRUPTED:  # what is done is kept already: threads that still compute are not waited for
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _version() -> str:
    from importlib.metadata import version  # not at the top: it takes a tenth of the time of --help

    return version("detrigger")


def _run(words: list[str]) -> int:
    app = build()
    if not COMMANDS.keys() & set(words):
        app.help_format = "plaintext"  # markdown takes a fifth of the time of --help
    code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    return _say(
        f"unexpected {type(error).__name__} in {where}: {_line(error) or 'no message'}; "
        f"this is a fault in detrigger: please report it, with what {TRACEBACK}=1 shows",
        2,
    )


def _line(error: BaseException) -> str:
    """An error's message on one line, without control characters: file and class names are not trusted."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(error).split()))


def _say(line: str, code: int) -> int:
    sys.stderr.write(f"detrigger: {line}\n")
    return code


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """What to write for characters that the terminal's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
