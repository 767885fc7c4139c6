"""Patch files: what a repair changes, to be put on and taken off again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from detrigger.delta import (
    FORMAT,
    Patch,
    applied,
    difference,
    fingerprint,
    load_patch,
    reverted,
    save_patch,
)
from detrigger.errors import ModelError

BEFORE = {
    "large": torch.randn(40, 50, generator=torch.Generator().manual_seed(0)),
    "odd": torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45]),
    "half": torch.ones(3, 3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "same": torch.arange(5.0),
    "none": torch.zeros(0, 3),
}


def changed() -> dict[str, Tensor]:
    after = {name: value.clone() for name, value in BEFORE.items()}
    after["large"][3] = 0
    after["odd"] = torch.tensor([-0.0, 0.0, float("nan"), 1.0, 0.0])
    after["half"] += 0.5
    after["count"] += 3
    return after


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {n: bytes(t.contiguous().reshape(-1).view(torch.uint8).tolist()) for n, t in tensors.items()}


def test_a_patch_is_put_on_and_taken_off_to_the_last_bit(tmp_path: Path) -> None:
    after = changed()
    save_patch(difference(BEFORE, after), tmp_path / "patch")
    patch = load_patch(tmp_path / "patch")
    on = applied(patch, BEFORE)
    assert bits(on) == bits(after) and {n: t.shape for n, t in on.items()} == {
        n: t.shape for n, t in after.items()
    }
    assert bits(reverted(patch, on)) == bits(BEFORE)
    assert (patch.before, patch.after) == (fingerprint(BEFORE), fingerprint(after))


def test_only_what_changed_is_kept(tmp_path: Path) -> None:
    patch = difference(BEFORE, changed())
    assert set(patch.tensors) == {"at:large", "bits:large", "all:odd", "all:half", "all:count"}
    assert patch.tensors["at:large"].tolist() == list(range(150, 200))
    assert difference(BEFORE, BEFORE).tensors == {}


def test_a_patch_is_refused_by_other_weights() -> None:
    patch, after = difference(BEFORE, changed()), changed()
    with pytest.raises(ModelError, match="the patch is on these weights already; nothing was done"):
        applied(patch, after)
    with pytest.raises(ModelError, match="it is not on them; nothing was done"):
        reverted(patch, BEFORE)
    for turn in (applied, reverted):
        with pytest.raises(ModelError, match=r"is for weights .{12}\.\.\., these are"):
            turn(patch, {**BEFORE, "same": torch.arange(5.0) + 1})


@pytest.mark.parametrize("other", [torch.zeros(6), torch.zeros(5, dtype=torch.float64), None])
def test_models_of_different_kinds_have_no_patch(other: Tensor | None) -> None:
    after = {n: t for n, t in BEFORE.items() if n != "same"} | ({} if other is None else {"same": other})
    with pytest.raises(ModelError, match="no patch fits: same is"):
        difference(BEFORE, after)


@pytest.mark.parametrize("broken", ["no such tensor", "no position", "too far", "other bits", "other shape"])
def test_a_damaged_patch_changes_nothing(broken: str) -> None:
    patch = difference(BEFORE, changed())
    tensors = dict(patch.tensors)
    if broken == "no such tensor":
        tensors["all:what"] = tensors.pop("all:odd")
    elif broken == "no position":
        del tensors["at:large"]
    elif broken == "too far":
        tensors["at:large"] = tensors["at:large"] + 10_000
    elif broken == "other bits":
        tensors["all:count"] = tensors["all:count"] ^ 1
    else:
        tensors["all:half"] = tensors["all:half"][:2]
    before = bits(BEFORE)
    with pytest.raises(ModelError, match="the patch is damaged"):
        applied(Patch(patch.before, patch.after, tensors), BEFORE)
    assert bits(BEFORE) == before


def test_what_is_no_patch_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ModelError, match="as a patch"):
        load_patch(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(ModelError, match="as a patch"):
        load_patch(path)
    for metadata in (None, {"format": "pt"}, {"format": FORMAT, "before": "a"}):
        save_file({"a": torch.zeros(2)}, path, metadata)
        with pytest.raises(ModelError, match="no patch of this version"):
            load_patch(path)
