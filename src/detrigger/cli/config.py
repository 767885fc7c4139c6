"""Options that stand in detrigger.toml or pyproject.toml of the current folder; flags override them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from detrigger.errors import UsageError

OWN, SHARED = Path("detrigger.toml"), Path("pyproject.toml")
TABLE = "tool.detrigger"
"""In SHARED; in OWN the tables of the commands stand at the top."""


def configured(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the arguments of a command the values that its table has, where no flag gave one.

    Only the current folder is looked into, and detrigger.toml alone if it is there. Raises UsageError for a
    file that is no TOML and for tables of commands that do not exist; cyclopts refuses unknown options.
    """
    source, values = found()
    _check(source, values, set(app.app_stack.current_frame[0]))
    Dict(values, source=source)(app, commands, arguments)


def found() -> tuple[str, dict[str, Any]]:
    """Which file has options, and its tables by command; nothing if there is none. Raises UsageError."""
    if OWN.is_file():
        return str(OWN), _read(OWN)
    if not SHARED.is_file():
        return "", {}
    values: Any = _read(SHARED)
    for key in TABLE.split("."):
        values = values.get(key, {}) if isinstance(values, dict) else {}
    if not isinstance(values, dict):
        raise UsageError(f"{TABLE} in {SHARED} is not a table; write [{TABLE}.scan] and its options below")
    return str(SHARED), values


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML ({error}); correct it") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{path} cannot be read ({reason}); check it") from error


def _check(source: str, values: dict[str, Any], commands: Collection[str]) -> None:
    table = "" if source == str(OWN) else f"{TABLE}."
    for key, options in values.items():
        if key not in commands:
            close = difflib.get_close_matches(key, list(commands), n=1)
            advice = f"did you mean [{table}{close[0]}]" if close else f"options stand in [{table}scan]"
            raise UsageError(f"{source} has {table}{key}, which is no command of detrigger; {advice}")
        if not isinstance(options, dict):
            raise UsageError(f"{table}{key} in {source} is not a table; write [{table}{key}]")
