"""NC, ANP, I-BAU and FT-SAM of BackdoorBench on a bare network, as in its config/defense/*/cifar10.yaml.

Their `mitigation()` runs as it is; what it loads is ours: the network, the clean images (all of them, not
augmented, since the attacks were not trained with augmentation) and, for its own test passes, nothing; ANP
chooses by test accuracy and test ASR, and so is given both.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image, to_tensor

CLASSES = {"i-bau": "i_bau", "ft-sam": "dsam", "nc": "nc", "anp": "anp"}


class Rows(Dataset):
    """Images with the five fields that their loaders give; it is also what they wrap one in."""

    def __init__(self, x, y):
        self.x, self.y, self.wrapped_dataset = x, y, self

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i]), i, 0, int(self.y[i])

    def subset(self, _positions):
        pass


class Pictures(Dataset):
    """As their NC has them: it reads pictures of `wrapped_dataset`, puts triggers on some of them, and then
    replaces the old list."""

    def __init__(self, x, y):
        self.wrapped_dataset = Wrapped([(to_pil_image(a), int(b)) for a, b in zip(x, y, strict=True)])

    def __len__(self):
        return len(self.wrapped_dataset)

    def __getitem__(self, i):
        picture, label, *more = self.wrapped_dataset[i]
        return (to_tensor(picture), label, *more)


class Wrapped:
    """The inner of the two."""

    def __init__(self, rows):
        self.dataset, self.original_index_array = rows, list(range(len(rows)))

    def __len__(self):
        return len(self.original_index_array)

    def __getitem__(self, i):
        picture, label, *_ = self.dataset[self.original_index_array[i]]
        return picture, label, i, 0, label

    def subset(self, _positions):
        pass


def noisy(net, norm):
    """A copy with their masked BatchNorm for each BatchNorm2d, from which ANP learns what to prune."""
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, norm(module.num_features))
    return net.requires_grad_(True)


def peer(checkout: str, method: str):
    """A function of a network, images, labels, the number of classes and two pairs of test images and labels,
    clean and stamped with the true trigger, that returns the repaired network."""
    sys.path.insert(0, checkout)
    sys.modules.setdefault("wandb", SimpleNamespace())
    module = importlib.import_module(f"defense.{method}")
    settings = yaml.safe_load((Path(checkout) / f"config/defense/{method}/cifar10.yaml").read_text())

    def repair(net, x, y, classes, clean_test, stamped_test):
        kept = {}
        rows = (Pictures if method == "nc" else Rows)(x, y)
        replaced = {
            "generate_cls_model": lambda *_: copy.deepcopy(net).requires_grad_(True),
            "get_transform": lambda *_, **__: None,
            "get_dataset_normalization": lambda *_: torch.nn.Identity(),
            "prepro_cls_DatasetBD_v2": lambda data: data,
            "choose_index": lambda *_: list(range(len(rows))),
            "choose_by_class": lambda *_: list(range(len(rows))),
            "general_plot_for_epoch": lambda *_, **__: None,
            "save_defense_result": lambda **given: kept.update(given["model"]),
            "load_attack_result": lambda _: defence.result,
            "get_anp_network": lambda *_, norm_layer=None, **__: noisy(net, norm_layer),
        }
        for name, value in replaced.items():
            setattr(module, name, value)
        defence = object.__new__(getattr(module, CLASSES[method]))
        channels, height, width = x.shape[1:]
        more = {
            "device": "cpu",
            "num_workers": 0,
            "pin_memory": False,
            "amp": False,
            "dataset": "gtsrb" if method == "nc" else "none",  # for which NC normalises nothing
            "result_file": "",
            "num_classes": classes,
            "input_height": height,
            "input_width": width,
            "input_channel": channels,
            "log": "",
            "save_path": "",
            "checkpoint_save": "",
            "print_freq": 10**9,
            "adaptive": True,
            "checkpoint_path": None,
        }
        defence.args = module.args = SimpleNamespace(**settings | more)
        defence.device = "cpu"
        defence.result = {
            "model": net.state_dict(),
            "clean_train": rows,
            "clean_test": Rows(*clean_test) if method == "anp" else Rows(x[:1], y[:1]),
            "bd_test": Rows(*stamped_test) if method == "anp" else Rows(x[:1], y[:1]),
        }
        defence.attack_file = ""
        defence.set_result = lambda *_: None
        if method in ("i-bau", "ft-sam"):
            defence.set_trainer = lambda *_: None
            defence.eval_step = lambda *_: (0.0,) * 6
        defence.set_devices = lambda *_: None
        logging.disable(logging.CRITICAL)
        with cpu(), scratch(), contextlib.redirect_stdout(io.StringIO()):
            defence.mitigation()
        repaired = copy.deepcopy(net)
        repaired.load_state_dict(kept)
        return repaired

    return repair


@contextlib.contextmanager
def cpu():
    """Their code asks for CUDA by name in one place."""
    zeros_like = torch.zeros_like
    torch.zeros_like = lambda *given, **options: zeros_like(
        *given, **{name: value for name, value in options.items() if name != "device"}
    )
    try:
        yield
    finally:
        torch.zeros_like = zeros_like


@contextlib.contextmanager
def scratch():
    """In a new working folder, as logs are written there; gone afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
