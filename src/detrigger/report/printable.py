"""Text that is safe to show. Apart from `words`, so that it does not bring torch with it."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with every control, bidirectional or invisible character spelt out, e.g. as `\x1b`.

    Names come with the model, so from the attacker: they must not steer the reader's terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
