"""One thread: the networks of these tests are too small to be worth sharing out. No deadlines: a busy machine
makes no test wrong."""

from __future__ import annotations

import hypothesis
import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("detrigger", deadline=None)
hypothesis.settings.load_profile("detrigger")

WHOLE_RUNS = ("test_clean", "test_cli", "test_demo", "test_readme")
"""Files of tests that scan and repair from end to end. Shapes are not checked in them, which would take half
of their time: what they call is checked in the tests of each module."""


@pytest.fixture(autouse=True, scope="module")
def shapes_are_checked(request: pytest.FixtureRequest) -> None:
    jaxtyping.config.update("jaxtyping_disable", request.module.__name__ in WHOLE_RUNS)
