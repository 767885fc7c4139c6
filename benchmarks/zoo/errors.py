"""The worst errors of `detrigger bench zoo`, as one picture: what was planted beside what was found.

    python benchmarks/zoo/errors.py ZOO CARDS OUT.png

A row for each: model, attack, verdict; the planted trigger on plain grey, its change of that grey tenfold,
and the trigger of the most suspect class. No image of a data set is shown.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from detrigger.bench.truth import zoo_triggers
from detrigger.load import load_trigger

SHOWN = 10
GREY = 0.5


def worst(zoo: Path, cards: Path) -> list[tuple[dict, dict, float]]:
    """Record, scan and distance of the probability from the truth of the worst; weak models are left out."""
    records = json.loads((zoo / "zoo.json").read_text())
    rows = []
    for record in records["models"] if isinstance(records, dict) else records:
        path = cards / "cards" / f"{record['id']}.json"
        if path.exists() and not record.get("weak"):
            scan = json.loads(path.read_text())["scan"]
            rows.append((record, scan, abs(scan["probability"] - record["backdoored"])))
    return sorted(rows, key=lambda row: -row[2])[:SHOWN]


def pictures(zoo: Path, cards: Path, record: dict, scan: dict) -> list[tuple[str, Tensor | None]]:
    plain = torch.full((1, *record["input_shape"]), GREY)
    planted = zoo_triggers(zoo).apply(record, plain)[0] if record["backdoored"] else None
    faint = None if planted is None else (GREY + 10 * (planted - GREY)).clamp(0, 1)
    found, label = None, "none kept"
    if scan["backdoors"]:
        first = scan["backdoors"][0]
        trigger, _ = load_trigger(cards / "cards" / first["trigger"])[:2]
        found = trigger(plain)[0, 0]
        label = f"found: {first['family']}, class {first['target']}"
    return [("planted", planted), ("planted, tenfold", faint), (label, found)]


def main(zoo: Path, cards: Path, out: Path) -> None:
    rows = worst(zoo, cards)
    figure, axes = plt.subplots(len(rows), 3, figsize=(7, 2.1 * len(rows)))
    for line, (record, scan, _) in zip(axes, rows, strict=True):
        attack, said = record.get("attack") or "clean", f"{scan['verdict']}, {scan['probability']:.2f}"
        title = f"{record['id']} ({attack})\n{said}"
        for axis, (label, picture) in zip(line, pictures(zoo, cards, record, scan), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(label, fontsize=8)
            if picture is None:
                axis.set_frame_on(False)
                axis.set_xlabel("")
            else:
                shown = picture.detach().permute(1, 2, 0)
                axis.imshow(shown.expand(-1, -1, 3) if shown.shape[2] == 1 else shown, vmin=0, vmax=1)
        line[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    figure.tight_layout()
    figure.savefig(out, dpi=70)
    print(
        "\n".join(
            f"{r['id']} {r.get('attack') or 'clean'} {s['verdict']} {s['probability']:.2f}"
            for r, s, _ in rows
        )
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
