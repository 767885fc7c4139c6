"""BTI-DBF (xuxiong0214/BTIDBF): its pretrain.py and btidbf.py, at their defaults.

Features are what goes into the network's last linear layer, as a bare model does not say where else to cut.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import torch
from patches import scratch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

RULE = (
    "it always names a class and cannot say clean; the score is the share of its images that get this class"
)


def peer(checkout: str):
    sys.path.insert(0, checkout)
    import btidbf
    import cfg
    import evaluate

    pretrain = (Path(checkout) / "pretrain.py").read_text()

    def ask(model, x, y, classes):
        arguments = ["btidbf.py", "--device", "cpu", "--size", str(x.shape[2]), "--num_classes", str(classes)]
        shares = []

        def label(testloader, testmodel, box, midmodel):
            shares.append(counts(testloader, testmodel, midmodel, classes))
            return evaluate.get_target_label(testloader, testmodel, box, midmodel)

        with scratch() as folder, contextlib.redirect_stdout(io.StringIO()):
            options = cfg.get_arguments().parse_args(arguments[1:])
            options.use_max_bd_feat = False
            box = Box(Cut(model), x, y, folder, options)
            found = {"__name__": "__main__"}
            sys.modules["loader"].Box = lambda _options: box
            before, sys.argv = sys.argv, arguments
            try:
                exec(compile(pretrain, "pretrain.py", "exec"), found)
                btidbf.Box, btidbf.get_target_label = sys.modules["loader"].Box, label
                target = int(btidbf.main(options))
            finally:
                sys.argv = before
        return {
            "statistic": shares[-1],
            "verdict": "backdoored",
            "targets": [target],
            "score": max(shares[-1]),
            "rule": RULE,
        }

    return ask


class Cut(nn.Module):
    """A network cut before its last linear layer."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, x):
        return self.net(x)

    def from_input_to_features(self, x):
        seen = []
        handle = self.head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            self.net(x)
        finally:
            handle.remove()
        return seen[0]

    def from_features_to_output(self, features):
        return self.head(features)


class Box:
    """Stands for its loader of models and data."""

    def __init__(self, classifier, x, y, folder, options):
        self.classifier, self.data, self.folder = classifier, TensorDataset(x, y), folder
        self.device, self.num_classes, self.attack_type = options.device, options.num_classes, "all2one"

    def get_save_path(self):
        return self.folder

    def get_state_dict(self):
        return None, None, self.classifier

    def get_dataloader(self, train, batch_size, shuffle):
        return DataLoader(self.data, batch_size=batch_size, shuffle=shuffle)


def counts(batches, model, generator, classes):
    """Share of generated images per class, as its get_target_label counts them."""
    with torch.no_grad():
        given = torch.cat([model(generator(x + 0.03 * torch.randn_like(x))).argmax(1) for x, _ in batches])
    return (given.bincount(minlength=classes) / len(given)).tolist()
