"""MM-BD (wanghangpsu/MM-BD, univ_bd.py), which needs no images; its script is run as it is, but for the sizes
of images and classes, which are written into it."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from types import ModuleType

import torch
from patches import scratch

RULE = "its own p-value, below 0.05"


def peer(checkout: str):
    import matplotlib.pyplot
    import scipy.stats  # noqa: F401 - so that the clock does not count imports

    matplotlib.use("Agg")
    text = (Path(checkout) / "univ_bd.py").read_text()

    def ask(model, x, _y, classes):
        script = text
        for old, new in {
            "[30, 3, 32, 32]": str([30, *x.shape[1:]]),
            "range(10)": f"range({classes})",
            "NC = 10": f"NC = {classes}",
        }.items():
            if old not in script:
                raise ImportError(f"univ_bd.py has no {old!r}; is it another version?")
            script = script.replace(old, new)
        found = run(script, model)
        margins, p_value = found["res"], float(found["pv"])
        target = max(range(classes), key=margins.__getitem__)
        attacked = not p_value > 0.05
        return {
            "statistic": margins,
            "verdict": "backdoored" if attacked else "clean",
            "targets": [target] if attacked else [],
            "score": -p_value,
            "rule": f"{RULE}; p = {p_value:.2g}",
        }

    return ask


def run(script, model):
    """What the script leaves behind; it takes its network from a module, and writes a file beside itself."""
    network = ModuleType("src.resnet")
    network.ResNet18 = lambda: Loaded(model)
    sys.modules |= {"src": ModuleType("src"), "src.resnet": network}
    arguments, load = sys.argv, torch.load
    found = {"__name__": "univ_bd"}
    with scratch(), contextlib.redirect_stdout(io.StringIO()):
        sys.argv, torch.load = ["univ_bd.py"], lambda *_, **__: {}
        try:
            exec(compile(script, "univ_bd.py", "exec"), found)
        finally:
            sys.argv, torch.load = arguments, load
    return found


class Loaded(torch.nn.Module):
    """A network that has its weights already."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def load_state_dict(self, _state):
        pass
