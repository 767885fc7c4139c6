"""`detrigger inspect`"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from detrigger.cli.console import emit, show
from detrigger.load.inspect import inspect_file
from detrigger.report.text import inspection_table


def inspect(file: Path, /, *, format: Literal["text", "json"] = "text") -> int:
    """Say what a file is, what is in it and what it would run, without running it.

    Parameters
    ----------
    file
        Any model file.
    format
        Of what is printed.
    """
    found = inspect_file(file)
    if format == "json":
        emit(msgspec.json.encode(found))
    else:
        show(inspection_table(found))
    return 1 if found.dangerous else 0
