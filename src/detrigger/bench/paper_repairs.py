"""Repairs of a backdoored model, each measured on images that neither scanner nor repair had."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from detrigger import measure
from detrigger.attack import Planted
from detrigger.bench.paper_records import LayerRow, Outcome, Stop
from detrigger.bench.paper_train import success
from detrigger.clean import clean
from detrigger.images import Images
from detrigger.model import Classifier, layers, linear_head, penultimate
from detrigger.repair import Repaired
from detrigger.repair.methods import METHODS
from detrigger.repair.prune import PruneConfig, gaps, prune
from detrigger.repair.refit import RefitConfig, refit
from detrigger.repair.silencing import silenced
from detrigger.repair.unlearn import UnlearnConfig, unlearn
from detrigger.scan import Backdoor, Scan, ScanConfig
from detrigger.trigger import Trigger

RANKING = 2000
"""Images at most that neurons are ranked and pruning is watched on."""
MEASURED = 2000
"""Images at most that the curve is measured on."""
LAYERS = 400
"""Images at most that each layer of the layer table is pruned on."""
DISTILLED = "unlearn-distilled"
"""Of METHODS."""
SHARES = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Of the last layer's neurons pruned, along the curve."""


@dataclass(frozen=True)
class Case:
    """A backdoored model, what its scan named, and the truth that repairs are measured by."""

    model: Classifier
    given: Images
    """That the scanner had."""
    judge: Images
    """That nobody had."""
    found: tuple[Backdoor, ...]
    """One or more."""
    planted: Planted
    seed: int

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """The synthesised ones."""
        return tuple(backdoor.trigger for backdoor in self.found)

    @property
    def targets(self) -> tuple[int, ...]:
        """Of the synthesised ones."""
        return tuple(backdoor.target for backdoor in self.found)


def some(images: Images, count: int) -> Images:
    """At most so many, drawn at random."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.where(order[:count])


def outcomes(case: Case, supply: Images, found: Scan, config: ScanConfig | None) -> tuple[Outcome, ...]:
    """The paper's repairs, unlearning with a teacher and refitting, on a part of the training images
    (`supply`, the paper's setting) and on the scanner's images; then, on the scanner's images, the loop as
    `detrigger repair` runs it, with the `config` of its rescans; None: without the loop."""
    ways: list[tuple[str, str, Callable[[], Repaired]]] = []
    for name, images in (("training", supply), ("scanner", case.given)):
        whole = 1.0 if name == "training" else UnlearnConfig.clean_share  # a supply is already the share
        ways += [("prune", name, partial(_prune, case, some(images, RANKING)))]
        ways += [("unlearn", name, partial(_unlearn, case, images, whole))]
        ways += [(DISTILLED, name, partial(_distilled, case, images))]
        if linear_head(case.model):
            ways += [("refit", name, partial(_refit, case, images))]
    made = []
    for method, name, way in ways:
        began = time.process_time()
        repaired = way()
        seconds = time.process_time() - began
        made.append(_measured(case, method, name, repaired.label, repaired.model, seconds))
    if config is None:
        return tuple(made)
    began = time.process_time()
    loop = clean(case.model, case.given, config, first=found, seed=case.seed)
    seconds = time.process_time() - began
    chosen = [attempt.method for attempt in loop.attempts if attempt.chosen]
    last = _measured(case, "auto", "scanner", "; ".join(chosen) or loop.reason, loop.model, seconds)
    return (*made, dataclasses.replace(last, rounds=len(chosen), repaired=loop.repaired))


def _prune(case: Case, images: Images) -> Repaired:
    return prune(case.model, images, case.triggers, case.targets, PruneConfig())


def _unlearn(case: Case, images: Images, whole: float) -> Repaired:
    config = UnlearnConfig(clean_share=whole, stamped_share=whole)
    return unlearn(case.model, images, case.triggers, case.targets, config, seed=case.seed)


def _refit(case: Case, images: Images) -> Repaired:
    return refit(case.model, images, case.triggers, case.targets, RefitConfig())


def _distilled(case: Case, images: Images) -> Repaired:
    first = METHODS[DISTILLED].candidates(case.model)[0]
    return first(case.model, images, case.triggers, case.targets, case.seed)


def _measured(case: Case, method: str, images: str, label: str, model: Classifier, seconds: float) -> Outcome:
    return Outcome(
        method=method,
        images=images,
        label=label,
        accuracy=measure.accuracy(model, case.judge),
        success=success(model, case.judge, case.planted),
        found=_found(case, model, case.judge),
        cpu_seconds=round(seconds, 1),
    )


def _found(case: Case, model: Classifier, images: Images) -> float:
    """Highest success of the synthesised triggers."""
    named = zip(case.triggers, case.targets, strict=True)
    return max(measure.success(model, images, trigger, target) for trigger, target in named)


def curve(case: Case) -> tuple[Stop, ...]:
    """The last layer's neurons silenced, those first that the synthesised triggers raise most."""
    layer, seen = penultimate(case.model), some(case.judge, MEASURED)
    ranked = gaps(case.model, some(case.given, RANKING), case.triggers, case.targets, layer)
    order = ranked.argsort(descending=True)
    stops = []
    for share in SHARES:
        model = silenced(case.model, layer, order[: round(share * len(order))])
        accuracy, truly = measure.accuracy(model, seen), success(model, seen, case.planted)
        stops.append(Stop(share, accuracy, truly, _found(case, model, seen)))
    return tuple(stops)


def by_layer(case: Case, stops: int) -> tuple[LayerRow, ...]:
    """Each layer alone pruned until the synthesised triggers fail, in at most so many steps."""
    rows = []
    for layer in layers(case.model):
        config = PruneConfig(layer=layer, stops=stops)
        repaired = prune(case.model, some(case.given, LAYERS), case.triggers, case.targets, config)
        neurons = len(gaps(case.model, some(case.given, 2), case.triggers, case.targets, layer))
        rows.append(
            LayerRow(
                layer=layer,
                neurons=neurons,
                pruned=round(repaired.curve[-1].share * neurons),
                accuracy=measure.accuracy(repaired.model, case.judge),
                success=success(repaired.model, case.judge, case.planted),
                found=_found(case, repaired.model, case.judge),
            )
        )
    return tuple(rows)
