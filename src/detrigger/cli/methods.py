"""`detrigger methods`"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from detrigger.attack.methods import ATTACKS
from detrigger.budgets import BUDGETS
from detrigger.cli.console import show
from detrigger.repair.methods import AUTO, METHODS
from detrigger.trigger import FAMILIES

PAPER = "published search and verdict of Wang et al. 2019, for comparison; slow"


def methods() -> int:
    """List what can be searched for, which repairs and which attacks there are."""
    sections = listed()
    width = max(len(name) for rows in sections.values() for name in rows)
    parts: list[RenderableType] = []
    for title, rows in sections.items():
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True, min_width=width)
        for name, text in rows.items():
            grid.add_row(name, Text(text))
        parts += [Text(title, "bold"), Padding(grid, (0, 0, 0, 2)), Text("")]
    show(Group(*parts[:-1]))
    return 0


def listed() -> dict[str, dict[str, str]]:
    """Section, name, what it is."""
    return {
        "Triggers (Menisov 2022, eq. 5)": {n: f"size in {f.unit()}" for n, f in FAMILIES.items()},
        "Budgets (scan --budget)": {
            name: "patch search in heats of "
            + ", ".join(f"{s.steps} steps × {s.images}" for s in plan["patch"])
            for name, plan in BUDGETS.items()
        },
        "Search (scan --synthesis)": {
            "detrigger": "all classes at once, then checked on held-out images; the default",
            "neural-cleanse": PAPER,
        },
        "Repairs (repair --method)": {
            "auto": f"{', '.join(AUTO)}: one after another until the guard accepts; the default",
            **{n: f"{m.summary} ({m.paper})" for n, m in METHODS.items()},
        },
        "Attacks (recipes of attack)": {n: f"{a.summary} ({a.paper})" for n, a in ATTACKS.items()},
    }
