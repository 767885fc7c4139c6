"""A zoo from a plan: clean models first, then those with a backdoor, each compared with a clean one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from detrigger.bench.make import Order, Record, make
from detrigger.bench.plan import ModelPlan, ZooPlan, recipe
from detrigger.bench.processes import Run
from detrigger.bench.sources import read, slice_file
from detrigger.errors import DataError
from detrigger.save import write_atomically

Made = Callable[[Record], None]
"""Called with the record of each model once it is in zoo.json."""


def build_zoo(
    plan: ZooPlan, root: Path, out: Path, *, run: Run = map, made: Made | None = None
) -> list[Record]:
    """Make what is not yet there, and return all records in the order of the plan.

    `root` is the folder that the plan's paths start from. A model is taken as there if it is in zoo.json with
    the same recipe, and its weights are there. zoo.json is written after each model, whole or not at all.
    """
    for name in ("weights", "triggers", "data_slices"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for module, name in (("networks.py", "arch.py"), ("stamps.py", "triggers.py")):
        write_atomically(out / name, Path(__file__).with_name(module).read_bytes())
    records = {record["id"]: record for record in read_records(out) if (out / record["weights"]).is_file()}
    wanted = [m for m in plan.model if records.get(m.id, {}).get("recipe") != _plain(recipe(m, plan))]
    for name in dict.fromkeys(m.dataset for m in plan.model):
        path = out / "data_slices" / f"{name}.npz"
        if any(m.dataset == name for m in wanted) or not path.exists():
            write_atomically(path, slice_file(read(plan.data[name], root)))
    for backdoored in (False, True):
        orders = [
            Order(model, plan, root, out, sibling(model, plan, records) if backdoored else None)
            for model in wanted
            if (model.attack is not None) == backdoored
        ]
        for record in run(make, orders):
            records[record["id"]] = record
            _write(out, plan, records)
            if made:
                made(record)
    _write(out, plan, records)
    return [records[m.id] for m in plan.model]


def read_records(folder: Path) -> list[Record]:
    """The records of a zoo; none if there is no zoo.json. Raises DataError if it is not one."""
    path = folder / "zoo.json"
    if not path.exists():
        return []
    try:
        found: list[Record] = msgspec.json.decode(path.read_bytes(), type=list[Record])
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is not the list of a zoo's models ({error}); build the zoo again") from error
    return found


def sibling(model: ModelPlan, plan: ZooPlan, records: dict[str, Record]) -> Record | None:
    """An ordinary clean model of the same data and network, with the same arguments if there is one."""
    found = [
        m
        for m in plan.model
        if m.attack is None and m.note is None and (m.dataset, m.arch) == (model.dataset, model.arch)
    ]
    found.sort(key=lambda m: m.arguments != model.arguments)
    return records[found[0].id] if found else None


def _plain(value: object) -> object:
    """As it comes back from JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _write(out: Path, plan: ZooPlan, records: dict[str, Record]) -> None:
    ordered = [records[m.id] for m in plan.model if m.id in records]
    write_atomically(out / "zoo.json", msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")
