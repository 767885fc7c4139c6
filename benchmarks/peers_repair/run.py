"""Every repair alone, ours and peers', on the same weights and clean images: one line of JSON for each.

    python benchmarks/peers_repair/run.py --zoo ZOO --models m_b02,c_c02 --methods refit,anp --out OUT.jsonl
    python benchmarks/peers_repair/run.py ... --methods bb:i-bau,bb:ft-sam --checkout BackdoorBench

The clean images are `--share` of the training images in number, drawn from those that scanners get. Repairs
that need triggers get those of a scan of the same images. No guard chooses or refuses, but for `auto`, which
is `detrigger repair` as it is, with its rescans. Lines that are there are kept.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from pathlib import Path

import torch
from backdoorbench import peer

from detrigger import measure
from detrigger.bench import truth
from detrigger.clean import clean
from detrigger.images import Images
from detrigger.load import load_classifier, load_images
from detrigger.repair.methods import METHODS
from detrigger.scan import scan


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--methods", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--checkout", default="")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = {record["id"]: record for record in json.loads((given.zoo / "zoo.json").read_text())}
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    there = {(line["model"], line["method"]) for line in map(json.loads, lines)}
    triggers = truth.zoo_triggers(given.zoo)
    for name in given.models.split(","):
        left = [m for m in given.methods.split(",") if (name, m) not in there]
        if left:
            _model(given, records[name], left, triggers)


def _model(given, record, methods, triggers) -> None:
    model, images, judge = _opened(given, record)
    before = _state(model, judge, record, triggers)
    needed = any(m == "auto" or (m in METHODS and not METHODS[m].trigger_free) for m in methods)
    found = scan(model, images, seed=0) if needed else None
    for method in methods:
        line = {"model": record["id"], "method": method, "images": len(images)}
        line |= {key: record.get(key) for key in ("attack", "arch", "dataset")}
        if found is not None and method in METHODS and not METHODS[method].trigger_free:
            line |= {"verdict": found.finding.verdict, "found": [b.target for b in found.backdoors]}
        tests = _tests(judge, record, triggers) if method.startswith("bb:") else ()
        line |= _tried(method, model, images, found, given.checkout, tests)
        if after := line.pop("repaired", None):
            line |= _compared(before, _state(after, judge, record, triggers), judge)
        with given.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def _opened(given, record):
    images = load_images(given.zoo / "data_slices" / f"{record['dataset']}.npz")
    channels, size, _ = record["input_shape"]
    shape = {"in_ch": channels, "classes": record["num_classes"], "size": size}
    model = load_classifier(
        given.zoo / record["weights"],
        f"{given.zoo}/arch.py:make",
        {"arch": record["arch"], **shape, **record["arch_kwargs"]},
        shape=images.shape,
        names=images.names,
    )
    per_class = max(1, round(given.share * record["train_images"] / record["num_classes"]))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    kept = [order[images.y[order] == label][:per_class] for label in images.y.unique().tolist()]
    return model, images.where(torch.cat(kept)), truth.judge_images(given.zoo, record, images.names)


def _tests(judge: Images, record, triggers):
    """Images and labels that are judged on, clean and with the first true trigger: for peers that choose by
    them."""
    if not record["triggers"]:
        return (judge.x, judge.y), (judge.x, judge.y)
    mask, wanted = triggers.victims(record, judge.y, 0)
    return (judge.x, judge.y), (triggers.apply(record, judge.x[mask], 0), wanted[mask])


def _tried(method, model, images, found, checkout, tests):
    """The repaired model, CPU seconds, images sent through the network; or why there is none."""
    passes = 0

    def count(_module, inputs):
        nonlocal passes
        passes += len(inputs[0])

    net = copy.deepcopy(model.net)
    net.register_forward_pre_hook(count)  # copies of the network count, too
    counted = dataclasses.replace(model, net=net)
    began = time.process_time()
    if method.startswith("bb:"):
        repair = peer(checkout, method.removeprefix("bb:"))
        began = time.process_time()
        after = dataclasses.replace(model, net=repair(net, images.x, images.y, len(images.names), *tests))
        label = method
    elif method == "auto":
        cleaning = clean(counted, images, first=found)
        if not cleaning.repaired:
            return {"refused": cleaning.reason}
        after, label = cleaning.model, next(a.method for a in reversed(cleaning.attempts) if a.chosen)
    else:
        candidates = METHODS[method].candidates(counted)
        free = METHODS[method].trigger_free
        if not candidates:
            return {"refused": "does not apply to this network"}
        if not free and not found.backdoors:
            return {"refused": "no trigger was found"}
        stacks = () if free else tuple(b.trigger for b in found.backdoors)
        targets = () if free else tuple(b.target for b in found.backdoors)
        done = candidates[0](counted, images, stacks, targets, 0)
        after, label = done.model, done.label
    return {"repaired": after, "label": label, "cpu": time.process_time() - began, "passes": passes}


def _state(model, judge: Images, record, triggers):
    predicted = measure.predictions(model, judge.x)
    success, robust = truth._attacked(model, judge, record, triggers) if record["triggers"] else (None, None)
    return {
        "accuracy": (predicted == judge.y).float().mean().item(),
        "success": success,
        "robust": robust,
        "recalls": measure.recalls(predicted, judge.y, len(judge.names)),
    }


def _compared(before, after, judge):
    line = {f"{k}_before": before[k] for k in ("accuracy", "success", "robust")}
    line |= {f"{k}_after": after[k] for k in ("accuracy", "success", "robust")}
    line["recall_drop"] = float((before["recalls"] - after["recalls"]).nan_to_num(0.0).max())
    if before["success"] is not None:
        pairs = (before["accuracy"], after["accuracy"], before["success"], after["success"])
        line["der"] = measure.defence_effectiveness(*pairs)
    return line


if __name__ == "__main__":
    main()
