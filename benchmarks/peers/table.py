"""Join the cards of run.py with the truth of the zoo, as tables for docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from detrigger.bench.figures import area_interval, area_under_curve, mean, median
from detrigger.bench.zoo_build import read_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder that run.py wrote")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--against", default="ours-standard", help="detector whose CPU time is the measure")
    given = parser.parse_args()
    truth = {record["id"]: record for record in read_records(given.zoo)}
    cards = {
        folder.name: {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        for folder in sorted(given.out.iterdir())
        if folder.is_dir()
    }
    sys.stdout.write(figures(cards, truth, given.against) + "\n" + answers(cards, truth))


def figures(cards, truth, against: str) -> str:
    """One line per detector."""
    lines = [
        "| detector | models (backdoored) | AUC (95 %) | detected | false alarms | inconclusive | "
        "right target, of those detected | mean image passes | mean CPU s | CPU s in all | "
        f"CPU against {against} | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, asked in cards.items():
        done = {model: card for model, card in asked.items() if "answer" in card}
        if not done:
            errors = sorted({card["error"] for card in asked.values()})
            lines.append(f"| {name} | 0 of {len(asked)} | {'; '.join(errors)} | | | | | | | | | |")
            continue
        bad = [model for model in done if truth[model]["backdoored"]]
        clean = [model for model in done if not truth[model]["backdoored"]]
        scores = [[finite(done[m]["answer"]["score"]) for m in part] for part in (bad, clean)]
        verdicts = {model: card["answer"]["verdict"] for model, card in done.items()}
        found = [model for model in bad if verdicts[model] == "backdoored"]
        named = [done[m]["answer"]["targets"][0] in truth[m]["targets"] for m in found]
        cells = (
            name,
            f"{len(done)} ({len(bad)})",
            area(*scores),
            f"{len(found)} of {len(bad)}",
            f"{sum(verdicts[m] == 'backdoored' for m in clean)} of {len(clean)}",
            str(sum(v == "inconclusive" for v in verdicts.values())),
            f"{sum(named)} of {len(named)}",
            f"{mean([c['searching'] + c['looking'] for c in done.values()]):,.0f}",
            f"{mean([c['cpu_seconds'] for c in done.values()]):,.1f}",
            f"{sum(c['cpu_seconds'] for c in done.values()):,.0f}",
            times(done, cards.get(against, {})),
            f"{max(c['peak_memory'] for c in done.values()) / 2**20:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def area(backdoored, clean) -> str:
    """Area under the curve and its interval."""
    if not backdoored or not clean:
        return "–"
    low, high = area_interval(backdoored, clean)
    return f"{area_under_curve(backdoored, clean):.2f} ({low:.2f} to {high:.2f})"


def times(done, measure) -> str:
    """How many times the CPU seconds of another detector on the same models: median, least and most."""
    both = [
        card["cpu_seconds"] / measure[model]["cpu_seconds"]
        for model, card in done.items()
        if "answer" in measure.get(model, {})
    ]
    return f"{median(both):.1f} times ({min(both):.1f} to {max(both):.1f})" if both else "–"


def answers(cards, truth) -> str:
    """One line per model, one column per detector: what was named, or `clean`, with CPU seconds."""
    models = sorted({model for asked in cards.values() for model in asked})
    lines = [f"| model | attack | target | {' | '.join(cards)} |", "|---" * (3 + len(cards)) + "|"]
    for model in models:
        record = truth[model]
        targets = ", ".join(map(str, record["targets"] or ())) if record["backdoored"] else ""
        cells = [said(asked.get(model)) for asked in cards.values()]
        lines.append(f"| {model} | {record.get('attack') or 'clean'} | {targets} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def said(card) -> str:
    if card is None:
        return "–"
    if "error" in card:
        return "error"
    answer = card["answer"]
    what = ", ".join(map(str, answer["targets"])) if answer["verdict"] == "backdoored" else answer["verdict"]
    return f"{what} ({card['cpu_seconds']:.0f} s)"


def finite(score: float) -> float:
    return score if math.isfinite(score) else math.copysign(1e9, score)


if __name__ == "__main__":
    main()
