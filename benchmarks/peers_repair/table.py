"""Markdown tables from the lines that run.py wrote: python benchmarks/peers_repair/table.py OUT.jsonl"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, median


def main() -> None:
    """One table by method, one by model."""
    read = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    lines = list({(line["model"], line["method"]): line for line in read}.values())
    methods = list(dict.fromkeys(line["method"] for line in lines))
    heads = ("repair", "models", "true ASR", "≤ 10 %", "accuracy", "worst recall", "DER", "clean models")
    print("| " + " | ".join((*heads, "CPU s", "passes")) + " |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method in methods:
        here = [line for line in lines if line["method"] == method and "refused" not in line]
        bad = [line for line in here if "der" in line]
        clean = [line for line in here if "der" not in line]
        print(_row(method, bad, clean))
    models = list(dict.fromkeys(line["model"] for line in lines))
    print("\n| model | before | " + " | ".join(methods) + " |")
    print("|---" * (len(methods) + 2) + "|")
    for model in models:
        here = {line["method"]: line for line in lines if line["model"] == model}
        done = next(line for line in here.values() if "refused" not in line)
        name = f"{model}, {done['arch']}, {done['attack'] or 'clean'}"
        cells = [_cell(here.get(method)) for method in methods]
        print(f"| {name} | {_state(done, 'before')} | " + " | ".join(cells) + " |")


def _row(method: str, bad: list, clean: list) -> str:
    lost = [100 * (line["accuracy_after"] - line["accuracy_before"]) for line in bad]
    kept = [100 * (line["accuracy_after"] - line["accuracy_before"]) for line in clean]
    both = bad + clean
    cells = [
        method,
        str(len(bad)),
        f"{mean(line['success_after'] for line in bad):.0%}",
        f"{sum(line['success_after'] <= 0.1 for line in bad)}",
        f"{mean(lost):+.1f}",
        f"{-100 * max(line['recall_drop'] for line in bad):+.0f}",
        f"{mean(line['der'] for line in bad):.3f}",
        f"{mean(kept):+.1f} ({len(kept)})" if kept else "–",
        f"{median(line['cpu'] for line in both):.1f}",
        "–" if method.startswith("bb:") else f"{median(line['passes'] for line in both):,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _cell(line: dict | None) -> str:
    return "" if line is None else "–" if "refused" in line else _state(line, "after")


def _state(line: dict, when: str) -> str:
    success = line[f"success_{when}"]
    return f"{line[f'accuracy_{when}']:.3f}" + ("" if success is None else f", {success:.2f}")


if __name__ == "__main__":
    main()
