"""K-Arm (PurduePAML/K-ARM_Backdoor_Optimization): pre-screening, bandit and symmetric check, at its defaults.

Its bounds on the trigger's size are for 224 × 224 images; they are options of its command line and are scaled
here by the area of the images.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from patches import OnCpu
from torch.utils.data import DataLoader, Dataset

SIDE = 224
RULE = "its own trojan_det; bounds scaled from 224 × 224 to the area of the images"
DEFAULTS = {
    "device": 0,
    "batch_size": 32,
    "lr": 1e-1,
    "step": 1000,
    "rounds": 60,
    "warmup_rounds": 2,
    "init_cost": 1e-3,
    "patience": 5,
    "cost_multiplier": 1.5,
    "epsilon": 1e-7,
    "regularization": "l1",
    "attack_succ_threshold": 0.99,
    "early_stop": False,
    "early_stop_threshold": 1.0,
    "early_stop_patience": 10,
    "epsilon_for_bandits": 0.3,
    "reset_cost_to_zero": True,
    "single_color_opt": True,
    "gamma": 0.25,
    "beta": 1e4,
    "global_theta": 0.95,
    "local_theta": 0.9,
    "central_init": True,
    "sym_check": True,
    "ratio_det_bound": 10,
    "examples_dirpath": "",
}
"""Of its main.py."""


def peer(checkout: str):
    folder = Path(checkout)
    modules = {}
    sys.path.insert(0, checkout)
    for name, file in {
        "dataset": "dataset.py",
        "K_Arm_Scanner": "K_Arm_Scanner.py",
        "utils": "utils.py",
        "Arm_Pre_Screening": "Arm_Pre_Screening.py",
        "K_Arm_Opt": "K_ARM_Opt.py",  # imported by another spelling than the file's
    }.items():
        modules[name] = loaded(name, folder / file)

    def ask(model, x, y, classes):
        side = x.shape[2]
        area = x.shape[2] * x.shape[3] / SIDE**2
        args = SimpleNamespace(
            **DEFAULTS,
            input_width=x.shape[2],
            input_height=x.shape[3],
            channels=x.shape[1],
            num_classes=classes,
            global_det_bound=1720 * area,
            local_det_bound=1000 * area,
        )
        centre, half = side // 2, round(25 * side / SIDE)
        modules["K_Arm_Opt"] = loaded(
            "K_Arm_Opt",
            folder / "K_ARM_Opt.py",
            ("112-25:112+25", f"{centre - half}:{centre + half}"),
        )
        for module in modules.values():
            module.torch = OnCpu()
            module.CustomDataSet = lambda _folder, transform, triggered_classes, label_specific=False: Held(
                x, y, triggered_classes if label_specific else None
            )
            module.DataLoader = loader
            module.tqdm = Quiet
        with contextlib.redirect_stdout(io.StringIO()):
            return decided(args, model, modules, classes)

    return ask


def decided(args, model, modules, classes):
    """The sequence of its main.py."""
    utils, search = modules["utils"], modules["K_Arm_Opt"].K_Arm_Opt
    raw = modules["Arm_Pre_Screening"].Pre_Screening(args, model)
    statistic = [None] * classes
    if raw[1] is not None and not raw[0]:
        return answer(statistic, False, [], -1e9, "no candidate after its pre-screening")
    targets, victims, args.num_classes, kind = utils.identify_trigger_type(*raw)
    size, _, target, victim, steps = search(args, targets, victims, kind, model, "forward")
    target, size = int(target), float(size)
    statistic[target] = size
    reverse, margin = None, math.log(args.global_det_bound / size)
    if kind == "polygon_specific":
        args.step, args.num_classes = steps, 1
        reverse, *_ = search(args, [int(victim)], torch.IntTensor([target]), kind, model, "backward")
        margin = min(
            math.log(args.local_det_bound / size), math.log(float(reverse) / size / args.ratio_det_bound)
        )
    found = utils.trojan_det(args, kind, size, reverse) == "trojan"
    return answer(statistic, found, [target] if found else [], margin, f"{kind}, {size:.1f} px")


def answer(statistic, found, targets, score, why):
    return {
        "statistic": statistic,
        "verdict": "backdoored" if found else "clean",
        "targets": targets,
        "score": score,
        "rule": f"{RULE}; {why}",
    }


class Held(Dataset):
    """The images in memory, in the form of its own data set."""

    def __init__(self, x, y, labels):
        wanted = set(torch.as_tensor(labels).reshape(-1).tolist()) if labels is not None else None
        chosen = [i for i, label in enumerate(y.tolist()) if wanted is None or label in wanted]
        self.x, self.y = x[chosen], y[chosen]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], str(i), int(self.y[i])


def loader(dataset, batch_size, shuffle, **_workers):
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle)


class Quiet:
    """Stands for its progress bar."""

    def __init__(self, steps):
        self.steps = steps

    def __iter__(self):
        return iter(self.steps)

    def set_description(self, _text):
        pass


def loaded(name, path, change=None):
    """A module of the checkout, with one text changed."""
    text = path.read_text()
    if change is not None:
        if change[0] not in text:
            raise ImportError(f"{path} has no {change[0]!r}; is it another version?")
        text = text.replace(*change)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader=None))
    sys.modules[name] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module
