"""Rules that a finding can break, and what public catalogues of attacks call them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec


class Taxonomy(msgspec.Struct, frozen=True, kw_only=True):
    """A public catalogue of attacks, and those of its entries that matter here."""

    name: str
    version: str
    organization: str
    page: str
    """Address of an entry, with `{id}` in place of its identifier."""
    source: str
    """Where identifiers and names were taken from."""
    note: str
    entries: dict[str, str]
    """Names by identifier."""

    def address(self, entry: str) -> str:
        """Page of an entry."""
        return self.page.format(id=entry)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of finding."""

    id: str
    summary: str
    description: str
    help: str
    """What to do."""
    level: Literal["error", "warning"]
    severity: float
    """On the scale of CVSS, 0 to 10; set by hand."""
    entries: tuple[str, ...]
    """Of the catalogues."""


class Taxonomies(msgspec.Struct, frozen=True, kw_only=True):
    """All of taxonomy.json."""

    taxonomies: tuple[Taxonomy, ...]
    rules: tuple[Rule, ...]

    def rule(self, name: str) -> Rule:
        """By its identifier."""
        return next(rule for rule in self.rules if rule.id == name)


@cache
def taxonomies() -> Taxonomies:
    """What taxonomy.json holds."""
    content = (files("detrigger.report") / "taxonomy.json").read_bytes()
    return msgspec.json.decode(content, type=Taxonomies)
