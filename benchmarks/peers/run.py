"""Ask one detector about models of a zoo: one process and one JSON card for each.

Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch

from detrigger.bench.peer import adapter, asked
from detrigger.bench.processes import peak_memory, processes
from detrigger.bench.sealed import Sealed, opened
from detrigger.bench.truth import sealed
from detrigger.bench.zoo_build import read_records
from detrigger.load import sha256
from detrigger.save import write_atomically
from detrigger.scan import ScanConfig


@dataclass(frozen=True)
class Order:
    """What a process is given: no truth about the model."""

    adapter: Path
    checkout: str
    model: Sealed
    card: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path, help="adapter file, such as benchmarks/peers/mm_bd.py")
    parser.add_argument("--checkout", default="", help="of the other project; for ours.py: the budget")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--models", required=True, help="ids, separated by commas")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cards")
    parser.add_argument("--name", help="of the detector; by default the adapter's")
    given = parser.parse_args()
    out = given.out / (given.name or given.adapter.stem)
    out.mkdir(parents=True, exist_ok=True)
    records = {record["id"]: record for record in read_records(given.zoo)}
    orders = [
        Order(given.adapter, given.checkout, sealed(records[name], given.zoo, out, ScanConfig()), card)
        for name in given.models.split(",")
        if not (card := out / f"{name}.json").exists()
    ]
    for line in processes(1, fresh=True)(work, orders):
        sys.stderr.write(f"{line}\n")


def work(order: Order) -> str:
    """Write the card; returns a line about it. An error of the other project is a result like any other."""
    torch.set_num_threads(1)
    model, images = opened(order.model)
    card = {
        "weights": sha256(order.model.weights),
        "adapter": hashlib.sha256(order.adapter.read_bytes()).hexdigest(),
        "images": len(images),
        "classes": len(model.classes),
        "date": datetime.date.today().isoformat(),
    }
    try:
        found = asked(adapter(order.adapter, order.checkout), model, images)
        card |= asdict(found) | {"answer": msgspec.to_builtins(found.answer), "peak_memory": peak_memory()}
        line = f"{found.answer.verdict} {list(found.answer.targets)}, {found.cpu_seconds:.0f} s of CPU"
    except Exception as error:  # noqa: BLE001
        card["error"] = f"{type(error).__name__}: {error}"
        line = card["error"]
    write_atomically(order.card, json.dumps(card, indent=1).encode() + b"\n")
    return f"{order.card.parent.name} {order.card.stem}: {line}"


if __name__ == "__main__":
    main()
