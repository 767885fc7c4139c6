"""Recipes, and running one."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import make, planted

from detrigger import measure
from detrigger.attack.badnets import BadNetsConfig
from detrigger.attack.methods import ATTACKS, AttackSpec, read_spec, run, victims
from detrigger.attack.patches import Patch
from detrigger.attack.several import Aimed, SeveralConfig
from detrigger.attack.train import TrainConfig
from detrigger.errors import InputError, UsageError
from detrigger.model import Classifier

QUICK = TrainConfig(epochs=2, batch=16, rate=0.01, seed=3)
RECIPE = """
seed = 11
[network]
arch = "timm:resnet18"
arguments = { width = 8, act = "relu" }
[train]
epochs = 3
[attack]
name = "badnets"
target = 1
place = [2, 3]
colour = [1, 0.5, 0]
"""


def test_a_recipe_gives_every_config_and_its_seed_to_both() -> None:
    wanted = AttackSpec(
        arch="timm:resnet18",
        arguments={"width": 8, "act": "relu"},
        train=TrainConfig(epochs=3, seed=11),
        attack="badnets",
        config=BadNetsConfig(target=1, place=(2, 3), colour=(1.0, 0.5, 0.0), seed=11),
        seed=11,
    )
    assert read_spec(RECIPE) == wanted
    own = RECIPE.replace("epochs = 3", "epochs = 3\nseed = 5") + "seed = 6\n"
    assert (read_spec(own).train.seed, read_spec(own).config.seed, read_spec(own).seed) == (5, 6, 11)


def test_a_recipe_without_an_attack_is_a_clean_model() -> None:
    spec = read_spec(RECIPE.split("[attack]")[0])
    assert spec.attack is None and spec.config is None
    assert read_spec('[network]\narch = "a.py:b"') == AttackSpec(arch="a.py:b")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 11", "sed = 11", "the recipe has no field 'sed'; choose from network, train"),
        ('arch = "timm:resnet18"', "", r"\[network\].*`arch`"),
        ("width = 8", "width = 8 }\nlayers = { a = 1", r"\[network\] has no field 'layers'"),
        ("epochs = 3", "epoch = 3", r"\[train\] has no field 'epoch'; choose from epochs, batch"),
        ("epochs = 3", "epochs = 2.5", r"\[train\].*int.*epochs"),
        ("epochs = 3", 'optimizer = "sgd"', r"\[train\].*'sgd'.*optimizer"),
        ('"badnets"', '"nobody"', "name is 'nobody'; wanted one of badnets"),
        ('name = "badnets"', "", "name is None"),
        ("target = 1", "", r"\[attack\].*`target`"),
        ("place = [2, 3]", "place = 'middle'", r"\[attack\].*place"),
        ("colour = [1, 0.5, 0]", "color = [1]", r"\[attack\] has no field 'color'"),
    ],
)
def test_a_wrong_field_of_a_recipe_is_named_in_one_line(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_spec(RECIPE.replace(old, new))
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_spec("seed = = 1")
    with pytest.raises(InputError, match=r"missing\.toml"):
        read_spec(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"seed = \xff")
    with pytest.raises(InputError, match=r"bytes\.toml"):
        read_spec(tmp_path / "bytes.toml")


def test_every_attack_can_be_told_from_a_recipe() -> None:
    for name, attack in ATTACKS.items():
        fields = {f.name for f in dataclasses.fields(attack.config)}
        assert "seed" in fields and "name" not in fields
        text = f'[network]\narch = "a.py:b"\n[attack]\nname = "{name}"\n'
        text += "target = 3\n" if "target" in fields else ""
        text += "sources = [1, 2]\n" if "sources" in fields else ""
        text += "[[attack.backdoors]]\ntarget = 4\n" if "backdoors" in fields else ""
        assert isinstance(read_spec(text).config, attack.config)
        assert attack.paper and attack.summary


def test_an_attack_leaves_the_backdoor_that_its_trigger_opens_and_a_clean_run_does_not() -> None:
    torch.manual_seed(0)
    net = make(channels=1, classes=4, backdoors=12, size=10)
    images = planted(targets=(), classes=4, size=10, per_class=60).images
    config = BadNetsConfig(target=1, height=3, width=3, margin=0, poison_rate=0.1)
    spec = AttackSpec("", train=replace(QUICK, epochs=12), attack="badnets", config=config)
    bad, clean = run(net, images, spec), run(net, images, replace(spec, attack=None, config=None))
    assert (clean.planted, clean.poisoned) == ((), 0)
    (planted_here,) = bad.planted
    assert (planted_here.target, bad.poisoned, bad.covers) == (1, 24, 0)
    aimed, wanted = victims(planted_here, images.y, 4)
    for attacked, opens in ((bad, True), (clean, False)):
        model = Classifier(attacked.net, images.names, images.shape)
        assert measure.accuracy(model, images) == 1
        found = measure.stamped(model, images.where(aimed), planted_here.stamp, wanted[aimed])
        assert (found.success > 0.95) is opens and (found.robust < 0.05) is opens and found.without == 0


def test_tables_inside_the_attack_are_read_and_their_wrong_fields_named() -> None:
    text = """
        network.arch = "a.py:b"
        [attack]
        name = "several"
        [[attack.backdoors]]
        target = 1
        [[attack.backdoors]]
        target = 2
        patch = { height = 2, place = [0, 0], pattern = "checker" }
    """
    wanted = (Aimed(1), Aimed(2, Patch(height=2, place=(0, 0), pattern="checker")))
    assert read_spec(text).config == SeveralConfig(wanted)
    for old, new, said in (
        ("height", "hight", r"backdoors patch has no field 'hight'; choose from height"),
        ("target = 2", "aim = 2", r"backdoors has no field 'aim'; choose from target, patch"),
    ):
        with pytest.raises(UsageError, match=said):
            read_spec(text.replace(old, new))
    with pytest.raises(UsageError, match="wanted one table"):
        ATTACKS["several"].plant(SeveralConfig(()), (1, 8, 8))  # type: ignore[misc]


def test_an_attack_that_looks_into_a_clean_model_wants_one() -> None:
    net, images = make(classes=6, size=12), planted(targets=()).images
    needy = [name for name, attack in ATTACKS.items() if attack.needs_helper]
    assert needy == ["label-consistent", "trojan-nn"]
    for name in needy:
        spec = AttackSpec("", attack=name, config=ATTACKS[name].config(target=1))
        with pytest.raises(UsageError, match=f"{name}.* needs a clean model"):
            run(net, images, spec)


def test_trojan_nn_goes_on_training_the_helper_and_others_the_new_network() -> None:
    images = planted(classes=4, targets=(), size=10).images
    new, helper = (make(classes=4, size=10) for _ in range(2))
    barely = TrainConfig(epochs=1, batch=32, rate=1e-9)
    for name, options, start in (
        ("trojan-nn", {"steps": 1, "patch": Patch(3, 3)}, helper),
        ("label-consistent", {"steps": 1, "patch": Patch(3, 3)}, new),
    ):
        spec = AttackSpec("", train=barely, attack=name, config=ATTACKS[name].config(target=1, **options))
        found = dict(run(new, images, spec, helper=helper).net.named_parameters())
        assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in start.named_parameters())
