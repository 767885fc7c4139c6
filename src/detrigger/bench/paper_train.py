"""One model of the paper's experiment: trained, saved and measured, or taken from an earlier run."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors.torch import load_file

from detrigger import measure
from detrigger.attack import Planted
from detrigger.attack.methods import ATTACKS, AttackSpec, victims
from detrigger.attack.methods import run as carry_out
from detrigger.bench import paper_networks
from detrigger.bench.paper_data import Divided, divided
from detrigger.bench.paper_plan import PaperPlan
from detrigger.bench.paper_records import Trained
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.save import save_classifier, write_atomically

Card = TypeVar("Card")


@dataclass(frozen=True)
class Order:
    """All that is needed to do one part of the work, in whatever process."""

    plan: PaperPlan
    seed: int
    part: str
    """`clean`, `backdoored`, `scan` and one of these, `repairs`; or of the open points a case such as
    `size 4`, or `model`, `scan` or `cleanse` and a case."""
    root: Path | None
    """Of the data; None: fetch it."""
    out: Path

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.plan.id}_{self.seed}_{self.part.replace(' ', '_')}"

    @property
    def card(self) -> Path:
        """Where the record goes."""
        return self.out / "cards" / f"{self.name}.json"

    def other(self, part: str) -> Order:
        """Another part of the same seed."""
        return dataclasses.replace(self, part=part)

    def data(self) -> Divided:
        """The data set."""
        return divided(self.plan.data, self.root)

    def attack(self, target: int) -> dict[str, Any]:
        """The attack with what the seed draws."""
        return self.plan.attack | {"target": target}

    def recipe(self) -> dict[str, Any]:
        """All that decides the model of this part, or the model that is studied and how it is scanned."""
        made = self.plan.recipe(self.seed, None if self.part.endswith("clean") else self.plan.attack)
        return made if self.part in ("clean", "backdoored") else made | {"budget": self.plan.budget}


def kept(path: Path, kind: type[Card], recipe: dict[str, Any]) -> Card | None:
    """The record of an earlier run, if it is of the same recipe; one that cannot be read is made again."""
    if not path.is_file():
        return None
    try:
        card = msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError:
        return None
    return card if getattr(card, "recipe", None) == recipe else None


def train(order: Order) -> Trained:
    """Train the clean or the backdoored model, write its weights and its card."""
    parts = order.data()
    training, judge = parts.train.images(), parts.judge.images()
    target = drawn_target(order.seed, len(training.names))
    attack = order.attack(target)
    spec = order.plan.specification(order.seed, attack)
    planted = plant(spec, training.shape)[0]
    wanted = spec if order.part == "backdoored" else dataclasses.replace(spec, attack=None)
    began = time.process_time()
    model, poisoned = made(order.plan, wanted, training)
    cpu_seconds = time.process_time() - began
    return keep(
        order,
        model,
        Trained(
            accuracy=measure.accuracy(model, judge),
            success=success(model, judge, planted),
            target=target,
            classes=len(training.names),
            images=len(training),
            poisoned=poisoned,
            judged=len(judge),
            cpu_seconds=round(cpu_seconds, 1),
            commit=commit(),
            recipe=order.recipe(),
        ),
    )


def keep(order: Order, model: Classifier, card: Trained) -> Trained:
    """Write a model's weights and its card."""
    save_classifier(model, weights(order))
    write_atomically(order.card, as_json(card))
    return card


def drawn_target(seed: int, classes: int) -> int:
    """The class that a seed draws."""
    return int(torch.randint(classes, (1,), generator=torch.Generator().manual_seed(seed)))


def plant(spec: AttackSpec, shape: tuple[int, int, int]) -> tuple[Planted, ...]:
    """The backdoors of a recipe, as the attacker knows them."""
    planter = ATTACKS[spec.attack or ""].plant
    assert planter is not None  # read_plans refuses such attacks
    planted: tuple[Planted, ...] = planter(spec.config, shape)
    return planted


def made(plan: PaperPlan, spec: AttackSpec, training: Images) -> tuple[Classifier, int]:
    """A trained network, and how many images were poisoned."""
    torch.manual_seed(spec.seed)
    net = network(plan, training)
    attacked = carry_out(net, training, spec)
    return Classifier(paper_networks.plain(attacked.net), training.names, training.shape), attacked.poisoned


def network(plan: PaperPlan, images: Images) -> torch.nn.Module:
    """Untrained, for such images."""
    channels, side, _ = images.shape
    planned = plan.network
    return paper_networks.make(planned.arch, channels, len(images.names), side, **planned.arguments)


def loaded(order: Order, images: Images) -> Classifier:
    """The model that was trained for an order."""
    net = paper_networks.plain(network(order.plan, images))
    net.load_state_dict(load_file(weights(order)))
    return Classifier(net, images.names, images.shape)


def weights(order: Order) -> Path:
    """Where a trained model is kept."""
    return order.out / "weights" / f"{order.name}.safetensors"


def success(model: Classifier, images: Images, planted: Planted) -> float:
    """Attack success rate of the true trigger."""
    mask, wanted = victims(planted, images.y, len(images.names))
    return measure.stamped(model, images.where(mask), planted.stamp, wanted[mask]).success


def commit() -> str:
    """Of the project's work tree, `+` for changes in it; the version where there is none."""
    installed = version("detrigger")
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return installed
    return done.stdout.strip() or installed


def as_json(value: object) -> bytes:
    """For a file that people also read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
