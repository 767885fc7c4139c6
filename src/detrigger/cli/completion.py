"""`detrigger completion`"""

from __future__ import annotations

from typing import Literal

from detrigger.cli import build
from detrigger.cli.console import write


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print what makes a shell complete detrigger's commands and flags.

    Parameters
    ----------
    shell
        Whose language it is in.
    """
    write(build().generate_completion(prog_name="detrigger", shell=shell))
    return 0
