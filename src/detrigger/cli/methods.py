"""`detrigger methods`"""

from __future__ import annotations

from rich.table import Table

from detrigger.attack import ATTACKS
from detrigger.cli.console import show
from detrigger.repair.methods import AUTO, METHODS
from detrigger.scan import BUDGETS
from detrigger.trigger import FAMILIES


def methods() -> int:
    """List what can be searched for, which repairs and which attacks there are."""
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "name", "what it does", "source"):
        table.add_column(column, no_wrap=column in ("kind", "name"))
    for name, family in FAMILIES.items():
        table.add_row("trigger", name, f"searched for; size in {family.unit()}", "Menisov 2022, eq. 4")
    for budget, config in BUDGETS.items():
        work = f"{config.steps} steps of {config.images_per_step} images per class"
        table.add_row("budget", budget, work, "")
    table.add_row(
        "synthesis", "neural-cleanse", "the published search and verdict, for comparison", "Wang 2019"
    )
    for name, method in METHODS.items():
        table.add_row("repair", name, method.summary, method.paper)
    table.add_row("repair", "auto", f"all of {', '.join(AUTO)}; the guard chooses", "")
    for name, attack in ATTACKS.items():
        table.add_row("attack", name, attack.summary, attack.paper)
    show(table)
    return 0
