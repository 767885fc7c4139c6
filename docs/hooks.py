"""Pages, or parts of them, that mkdocs makes from the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from detrigger.cli import build
from detrigger.cli.methods import listed

SECURITY = Path(__file__).parents[1] / "SECURITY.md"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with what its marks stand for."""
    for mark, made in {"methods": methods, "commands": commands, "security": security}.items():
        if f"<!-- {mark} -->" in markdown:
            markdown = markdown.replace(f"<!-- {mark} -->", made())
    return markdown


def methods() -> str:
    """Tables of everything that can be asked for by name."""
    parts = []
    for title, rows in listed().items():
        lines = [f"| `{name}` | {text} |" for name, text in rows.items()]
        parts.append("\n".join([f"## {title}", "", "| name | |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def commands() -> str:
    """Every command with its flags."""
    made = build().generate_docs(output_format="markdown")
    _, _, after = made.partition("## detrigger scan")
    # names of files in angle brackets and the like are no markup
    return "## detrigger scan" + re.sub(r"<(?=\w)", "&lt;", after)


def security() -> str:
    """SECURITY.md below its title, with links as they are from here."""
    return SECURITY.read_text("utf-8").partition("\n")[2].replace("](docs/", "](")
