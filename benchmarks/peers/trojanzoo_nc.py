"""Neural Cleanse of trojanzoo (PyPI `trojanzoo`), at its defaults: 10 epochs, Adam 0.1, cost 1e-3."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

import matplotlib
import matplotlib.cm
import torch
from torch.nn.functional import cross_entropy

BATCH = 100
"""Its default for CIFAR-10."""
RULE = "its printed `mask norm MAD` above 2 and the norm below the median (it gives no verdict itself)"


def peer(_checkout: str):
    matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap  # gone from recent matplotlib
    from trojanvision.defenses.backdoor.model_inspection.neural_cleanse import NeuralCleanse
    from trojanvision.marks import Watermark
    from trojanzoo.utils.metric import normalize_mad

    def ask(model, x, y, classes):
        model.requires_grad_(False)  # as its own models are when they are not trained
        mark = object.__new__(Watermark)  # its constructor would read a picture of a true trigger
        torch.nn.Module.__init__(mark) if isinstance(mark, torch.nn.Module) else None
        mark.mark = torch.zeros(x.shape[1] + 1, *x.shape[2:])
        mark.mark_height, mark.mark_width = x.shape[2:]
        mark.mark_height_offset = mark.mark_width_offset = 0
        mark.mark_alpha, mark.mark_random_pos, mark.add_mark_fn = 1.0, False, None
        search = defence(NeuralCleanse, model, mark)
        norms, success = [], []
        for label in range(classes):
            order = torch.randperm(len(x))
            batches = list(zip(x[order].split(BATCH), y[order].split(BATCH), strict=True))
            with contextlib.redirect_stdout(io.StringIO()):
                best, _ = search.optimize_mark(label, loader=batches, verbose=False)
            norms.append(best[-1].norm(p=1).item())
            success.append(reached(model, mark, x, label))
        norms = torch.tensor(norms)
        index, low = normalize_mad(norms), norms < norms.median()
        flagged = sorted(((index > 2) & low).nonzero()[:, 0].tolist(), key=lambda c: norms[c])
        return {
            "statistic": norms.tolist(),
            "verdict": "backdoored" if flagged else "clean",
            "targets": flagged,
            "score": index[norms.argmin()].item(),
            "rule": f"{RULE}; mean success of its marks {sum(success) / classes:.2f}",
        }

    return ask


def defence(kind, model, mark):
    """Its search, without the constructor, which wants the attack that made the model."""
    search = object.__new__(kind)
    search.attack = SimpleNamespace(mark=mark, add_mark=mark.add_mark)
    search.model = Held(model)
    search.defense_remask_epoch, search.defense_remask_lr, search.cost = 10, 0.1, 1e-3
    search.init_cost = search.cost
    search.cost_multiplier_up, search.cost_multiplier_down = 1.5, 1.5**1.5
    search.nc_asr_threshold, search.nc_early_stop_threshold = 0.99, 0.99
    search.nc_patience, search.early_stop_patience = 10.0, 20.0
    return search


class Held:
    """A network with what the search uses of its own kind of model."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)

    def get_data(self, data):
        return data

    def loss(self, _input, label, _output):
        return cross_entropy(_output, label)


def reached(model, mark, x, label):
    """Share of the images that the last mark sends to the label; it validates each mark in the same way."""
    with torch.no_grad():
        return (model(mark.add_mark(x)).argmax(1) == label).float().mean().item()
