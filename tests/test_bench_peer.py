"""Other detectors on our models: what they are given, what is counted, what they may answer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from planted import planted
from torch import Tensor, nn

from detrigger.bench.peer import Plain, adapter, asked, counted
from detrigger.errors import ModelError, UsageError
from detrigger.model import Classifier, Preprocessing

GOOD: dict[str, object] = {
    "statistic": [3.0, None, 1.0, 2.0, 2.0, 2.0],
    "verdict": "backdoored",
    "targets": [2],
    "score": 2.5,
    "rule": "smallest",
}


def test_passes_are_counted_with_and_without_gradients_and_through_copies() -> None:
    made = planted()

    def ask(net: nn.Module, x: Tensor, y: Tensor, classes: int) -> Mapping[str, object]:
        net(x[:5]).sum().backward()
        copy.deepcopy(net)(x[:7])
        with torch.no_grad():
            net(x[:11])
        return GOOD

    found = asked(ask, made.model, made.images)
    assert (found.searching, found.looking) == (12, 11)
    assert found.answer.targets == (2,) and found.answer.statistic[1] is None
    assert found.cpu_seconds > 0


def test_nothing_is_counted_when_the_block_is_over() -> None:
    net = nn.Linear(2, 2)
    with counted(net) as passes:
        net(torch.zeros(3, 2))
    net(torch.zeros(3, 2))
    assert passes.searching == 3


def test_a_peer_that_changes_its_network_or_images_changes_nothing_of_ours() -> None:
    made = planted()
    before, images = copy.deepcopy(made.model.net.state_dict()), made.images.x.clone()

    def ask(net: nn.Module, x: Tensor, y: Tensor, classes: int) -> Mapping[str, object]:
        for p in net.parameters():
            p.data.zero_()
        x.zero_()
        return GOOD

    asked(ask, made.model, made.images)
    assert all(torch.equal(value, before[name]) for name, value in made.model.net.state_dict().items())
    assert torch.equal(made.images.x, images)


def test_peers_draw_the_same_random_numbers_again() -> None:
    made = planted()

    def ask(net: nn.Module, x: Tensor, y: Tensor, classes: int) -> Mapping[str, object]:
        return GOOD | {"score": torch.rand(1).item()}

    scores = [asked(ask, made.model, made.images, seed=seed).answer.score for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_a_peer_gets_a_network_that_gives_our_logits_and_has_weights_to_train() -> None:
    made = planted(channels=3)
    net = nn.Sequential(made.model.net, nn.Softmax(1))
    model = Classifier(
        net,
        made.model.classes,
        made.model.image_shape,
        Preprocessing((0.1, 0.2, 0.3), (0.5, 0.4, 0.6)),
        probabilities=True,
    )
    plain = Plain(model)
    assert torch.allclose(plain(made.images.x), model(made.images.x), atol=1e-5)
    assert all(p.requires_grad for p in plain.parameters()) and not plain.training
    assert not any(p.requires_grad for p in model.net.parameters())


@pytest.mark.parametrize(
    "wrong",
    [{"verdict": "dirty"}, {"statistic": [1.0]}, {"score": float("nan")}, {"targets": "two"}, {"rule": None}],
)
def test_an_answer_that_is_not_as_agreed_is_refused(wrong: dict[str, object]) -> None:
    made = planted()
    with pytest.raises(ModelError, match="adapter"):
        asked(lambda *_: GOOD | wrong, made.model, made.images)


def test_an_adapter_is_a_file_that_may_use_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_adapter.py").write_text("RULE = 'none'\n")
    file = tmp_path / "other.py"
    file.write_text(
        "import beside_the_adapter\n"
        "def peer(checkout):\n"
        "    def ask(model, x, y, classes):\n"
        "        return dict(statistic=[0.0] * classes, verdict='clean', targets=[], score=0.0,\n"
        "                    rule=beside_the_adapter.RULE + checkout)\n"
        "    return ask\n"
    )
    made = planted()
    assert asked(adapter(file, " of it"), made.model, made.images).answer.rule == "none of it"


@pytest.mark.parametrize(
    "text", ["import package_that_is_not_there\n", "x = 1\n", "def peer(c):\n    open(c)\n"]
)
def test_an_adapter_that_cannot_start_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.py").write_text(text)
    with pytest.raises(UsageError, match="cannot start"):
        adapter(tmp_path / "other.py", "/not/there")
    with pytest.raises(UsageError, match="no adapter"):
        adapter(tmp_path / "missing.py")


def test_what_was_asked_is_a_value() -> None:
    made = planted()
    found = asked(lambda *_: GOOD, made.model, made.images)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.searching = 0  # type: ignore[misc]
