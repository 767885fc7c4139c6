"""The table of repairs. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detrigger.images import Images
from detrigger.model import Classifier, layers
from detrigger.repair import Repaired
from detrigger.repair.prune import PruneConfig, prune
from detrigger.repair.refit import RefitConfig, linear_head, refit
from detrigger.repair.unlearn import UnlearnConfig, unlearn
from detrigger.trigger import Trigger

Candidate = Callable[[Classifier, Images, Sequence[Trigger], tuple[int, ...], int], Repaired]
"""(model, fitting images, triggers, their targets, seed) -> a candidate."""


@dataclass(frozen=True)
class Method:
    """A repair that can be asked for by name."""

    summary: str
    paper: str
    candidates: Callable[[Classifier], tuple[Candidate, ...]]
    """What it tries on a model, cheapest first; the guard chooses. Nothing if it does not apply."""
    trigger_free: bool = False
    """It needs no trigger: `triggers` and `targets` may be empty."""


def _pruning(layer: str) -> Candidate:
    return lambda model, images, triggers, targets, seed: prune(
        model, images, triggers, targets, PruneConfig(layer=layer)
    )


def _refitting() -> Candidate:
    return lambda model, images, triggers, targets, seed: refit(
        model, images, triggers, targets, RefitConfig()
    )


def _unlearning(config: UnlearnConfig) -> Candidate:
    return lambda model, images, triggers, targets, seed: unlearn(
        model, images, triggers, targets, config, seed=seed
    )


PAPER_UNLEARNING = UnlearnConfig()
LONG_UNLEARNING = UnlearnConfig(epochs=10, clean_share=1.0, stamped_share=0.25)

METHODS: dict[str, Method] = {
    "prune": Method(
        "silence the neurons before the last layer that the trigger raises most",
        "Menisov 2022; Wang et al. 2019",
        lambda model: (_pruning(""),),
    ),
    "prune-layers": Method(
        "the same at every layer that has neurons; the guard chooses the layer",
        "Menisov 2022",
        lambda model: tuple(_pruning(layer) for layer in reversed(layers(model))),
    ),
    "refit": Method(
        "silence some of those neurons and solve the last layer anew, so that stamped images count as clean",
        "our own, after Menisov 2022",
        lambda model: (_refitting(),) if linear_head(model) else (),
    ),
    "unlearn": Method(
        "one epoch on 20 % clean and 20 % stamped images with their right labels",
        "Menisov 2022; Wang et al. 2019",
        lambda model: (_unlearning(PAPER_UNLEARNING),),
    ),
    "unlearn-long": Method(
        "ten epochs on all clean and 25 % stamped images with their right labels",
        "Wang et al. 2019",
        lambda model: (_unlearning(LONG_UNLEARNING),),
    ),
}
AUTO = ("refit", "prune", "unlearn", "unlearn-long", "prune-layers")
"""What `--method auto` tries, in this order, until candidates of one pass the guard."""
