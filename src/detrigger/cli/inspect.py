"""`detrigger inspect`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from detrigger.cli.console import emit, show, write
from detrigger.errors import ModelError, UsageError
from detrigger.files.inspect import Inspection, inspect_file
from detrigger.report.inspection import inspection
from detrigger.report.printable import printable


def inspect(
    *files: Path,
    tensors: Annotated[bool, Parameter(negative=())] = False,
    format: Literal["text", "json", "sarif"] = "text",
) -> int:
    """Say what files are, what is in them and what they would run, without running it.

    Exit code 1 if any of them is dangerous to open with ordinary tools, else 2 if any cannot be read.

    Parameters
    ----------
    files
        Model files or folders, one or more.
    tensors
        List all tensors with their shapes and types, not only how many there are.
    format
        Of what is printed; json is a list with one entry per file, tensors included; sarif is for code hosts.
    """
    if not files:
        raise UsageError("no FILE is given; give one or more model files")
    found: list[Inspection] = []
    for file in files:
        try:
            found.append(inspect_file(file))
        except ModelError as error:
            if len(files) == 1:
                raise
            sys.stderr.write(f"detrigger: {printable(' '.join(str(error).split()))}\n")
    if format == "json":
        emit(msgspec.json.encode(found))
    elif format == "sarif":
        # needs torch, which the other formats do without
        from detrigger.cli.formats import root
        from detrigger.report.sarif import sarif_of_files

        write(sarif_of_files(found, root()))
    else:
        for one in found:
            show(inspection(one, tensors=tensors))
    dangerous = any(one.dangerous for one in found)
    return 1 if dangerous else 2 if len(found) < len(files) else 0
