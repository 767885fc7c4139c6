"""What several adapters change about the code they run."""

from __future__ import annotations

import contextlib
import os
import tempfile

import torch


class OnCpu:
    """Torch as the code sees it: every device is the CPU."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def device(self, *_):
        return torch.device("cpu")


@contextlib.contextmanager
def scratch():
    """In a new working folder, as some write files there; gone afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
