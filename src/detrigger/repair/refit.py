"""Refitting: the last linear layer is solved anew, so that stamped images get their clean selves' logits.

Our own. One ridge regression in closed form, no training: the rows are the penultimate activations of clean
images and of stamped images that are not of the target class; wanted are the original's logits on the clean
image. The neurons that the triggers raise most are silenced first, as in pruning (Menisov 2022), and the rest
take over their part, which is what plain pruning lacks: there the target class is lost with its neurons.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrigger import measure
from detrigger.errors import UsageError
from detrigger.images import Images
from detrigger.measure import CurvePoint
from detrigger.model import INPUT, Classifier, linear_head, penultimate
from detrigger.repair import Repaired, point
from detrigger.trigger import Trigger


@dataclass(frozen=True)
class RefitConfig:
    """How the last layer is solved."""

    silenced_share: float = 0.15
    """Of the penultimate neurons that are silenced, by falling gap in activation; 0 to 1."""
    stamped_weight: float = 0.25
    """Of a stamped image beside a clean one; above 0."""
    ridge: float = 0.01
    """Penalty on the weights, relative to the mean variance of the activations; above 0."""


def refit(
    model: Classifier,
    images: Images,
    triggers: Sequence[Trigger],
    targets: tuple[int, ...],
    config: RefitConfig,
) -> Repaired:
    """Solve the last layer. `triggers` are stacks of one, one per target.

    Raises UsageError if the last layer is not linear.
    """
    if not linear_head(model):
        raise UsageError("the last layer is not linear; use another repair")
    head = penultimate(model).removesuffix(INPUT)
    clean, logits = _features(model, images.x, head)
    rows, wanted, weights = [clean], [logits], [torch.ones(len(clean))]
    raised = []
    for i, target in enumerate(targets):
        others = images.y != target
        stamped, _ = _features(model, triggers[i](images.x[others])[0], head)
        rows.append(stamped)
        wanted.append(logits[others])
        weights.append(torch.full((len(stamped),), config.stamped_weight / len(targets)))
        raised.append(stamped.mean(0) - clean[others].mean(0))
    ranked = torch.stack(raised).amax(0).argsort(descending=True)
    kept = ranked[round(config.silenced_share * len(ranked)) :].sort().values
    weight, bias = _ridge(torch.cat(rows)[:, kept], torch.cat(wanted), torch.cat(weights), config.ridge)
    net = copy.deepcopy(model.net)
    solved = net.get_submodule(head)
    assert isinstance(solved, nn.Linear)
    with torch.no_grad():
        solved.weight.zero_()
        solved.weight[:, kept] = weight.to(solved.weight)
        if solved.bias is not None:
            solved.bias.copy_(bias)
    candidate = dataclasses.replace(model, net=net)
    curve: tuple[CurvePoint, ...] = tuple(
        point(m, images, triggers, targets, share) for m, share in ((model, 0.0), (candidate, 1.0))
    )
    label = f"refit {head}, {len(ranked) - len(kept)} of {len(ranked)} neurons silenced"
    return Repaired(candidate, label, curve)


def _features(model: Classifier, x: Tensor, head: str) -> tuple[Tensor, Tensor]:
    """What goes into the last layer, and what comes out."""
    parts = measure.batches(x)
    into, out = (torch.cat([model.activations(p, name) for p in parts]) for name in (head + INPUT, head))
    return into, out


def _ridge(
    rows: Float[Tensor, "n d"], wanted: Float[Tensor, "n k"], weights: Float[Tensor, " n"], ridge: float
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Weighted ridge regression with a free constant; in double precision."""
    a, z, w = rows.double(), wanted.double(), weights.double().to(rows.device)[:, None]
    centre, level = (w * a).sum(0) / w.sum(), (w * z).sum(0) / w.sum()
    a, z = a - centre, z - level
    penalty = ridge * len(a) * a.var(0).mean() * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    weight = torch.linalg.solve(a.T @ (w * a) + penalty, a.T @ (w * z)).T
    return weight, level - weight @ centre
