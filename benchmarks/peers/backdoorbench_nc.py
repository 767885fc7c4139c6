"""Neural Cleanse of BackdoorBench (defense/nc.py), at the settings of its config/defense/nc/cifar10.yaml."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from patches import scratch
from torch.utils.data import DataLoader, TensorDataset

RULE = "its own outlier_detection: anomaly index of the mask's L1 norm above 2, below the median"


def peer(checkout: str):
    sys.path.insert(0, checkout)
    from defense import nc

    settings = yaml.safe_load((Path(checkout) / "config/defense/nc/cifar10.yaml").read_text())

    def ask(model, x, y, classes):
        nc.generate_cls_model = lambda _name, _classes: copy.deepcopy(model)
        args = SimpleNamespace(
            **settings
            | {
                "device": "cpu",
                "dataset": "gtsrb",  # for which it normalises nothing: our networks do so themselves
                "num_classes": classes,
                "input_channel": x.shape[1],
                "log": "log",
                "output_path": "output.txt",
            }
        )
        nc.args = args
        batches = DataLoader(TensorDataset(x, y), batch_size=args.batch_size, shuffle=True)
        mask = np.ones((1, *x.shape[2:]), dtype=np.float32)
        pattern = np.ones(x.shape[1:], dtype=np.float32)
        norms = []
        with scratch(), contextlib.redirect_stdout(io.StringIO()):
            for args.target_label in range(classes):
                recorder, _ = nc.train_mask(args, {"model": model.state_dict()}, batches, mask, pattern)
                norms.append(torch.norm(recorder.mask_best, p=args.use_norm))
            norms = torch.stack(norms)
            flagged = nc.outlier_detection(norms, {c: c for c in range(classes)}, args)
        median = norms.median()
        deviation = 1.4826 * (norms - median).abs().median()
        return {
            "statistic": norms.tolist(),
            "verdict": "backdoored" if flagged else "clean",
            "targets": [label for label, _ in flagged],
            "score": ((median - norms.min()) / deviation).item(),
            "rule": RULE,
        }

    return ask
