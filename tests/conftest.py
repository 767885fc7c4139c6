"""One thread: the networks of these tests are too small to be worth sharing out. No deadlines: a busy machine
makes no test wrong."""

from __future__ import annotations

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("detrigger", deadline=None)
hypothesis.settings.load_profile("detrigger")
