"""The table of repairs. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detrigger.images import Images
from detrigger.model import Classifier, linear_head
from detrigger.repair import Repaired
from detrigger.repair.anp import AnpConfig, anp
from detrigger.repair.clp import ClpConfig, clp, convolution_norm_pairs
from detrigger.repair.distil import DistilConfig, distil
from detrigger.repair.fine_prune import FinePruneConfig, fine_prune
from detrigger.repair.fst import FstConfig, fst
from detrigger.repair.ibau import IbauConfig, ibau
from detrigger.repair.prune import EVERY, PruneConfig, prune
from detrigger.repair.refit import RefitConfig, refit
from detrigger.repair.sam import SamConfig, sam
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


def _solved(verb: Callable[..., Repaired], config: object) -> Candidate:
    return lambda model, images, triggers, targets, seed: verb(model, images, triggers, targets, config)


def _trained(verb: Callable[..., Repaired], config: object) -> Candidate:
    return lambda model, images, triggers, targets, seed: verb(
        model, images, triggers, targets, config, seed=seed
    )


def _refitted(rate: float) -> Candidate:
    """Unlearning goes on from what refitting left."""

    def candidate(
        model: Classifier,
        images: Images,
        triggers: Sequence[Trigger],
        targets: tuple[int, ...],
        seed: int,
    ) -> Repaired:
        start = refit(model, images, triggers, targets, RefitConfig())
        config = DistilConfig(learning_rate=rate)
        return distil(model, images, triggers, targets, config, seed=seed, start=start)

    return candidate


GREEDY = PruneConfig(layer=EVERY, accuracy_drop=0.02, share=0.5, rollback=True)

METHODS: dict[str, Method] = {
    "prune": Method(
        "silence the neurons before the last layer that the trigger raises most",
        "Menisov 2022; Wang et al. 2019",
        lambda model: (_solved(prune, PruneConfig()),),
    ),
    "prune-greedy": Method(
        "the same at all layers together; neurons that clean accuracy needs are put back",
        "Menisov 2022",
        lambda model: (_solved(prune, GREEDY),),
    ),
    "refit": Method(
        "silence some of those neurons and solve the last layer anew, so that stamped images count as clean",
        "our own, after Menisov 2022",
        lambda model: (_solved(refit, RefitConfig()),) if linear_head(model) else (),
    ),
    "unlearn": Method(
        "one epoch on 20 % clean and 20 % stamped images with their right labels",
        "Menisov 2022; Wang et al. 2019",
        lambda model: (_trained(unlearn, UnlearnConfig()),),
    ),
    "unlearn-distilled": Method(
        "stamped images get their right labels, clean ones the original as their teacher; at three rates",
        "Wang et al. 2019; Hinton et al. 2015",
        lambda model: tuple(
            _trained(distil, DistilConfig(learning_rate=rate)) for rate in (0.02, 0.01, 0.005)
        ),
    ),
    "refit-distilled": Method(
        "`refit`, and then `unlearn-distilled` from there, with the original as the teacher; at two rates",
        "our own, after Menisov 2022; Hinton et al. 2015",
        lambda model: tuple(_refitted(rate) for rate in (0.02, 0.005)) if linear_head(model) else (),
    ),
    "clp": Method(
        "silence channels that amplify far more than others of their layer; needs neither trigger nor data",
        "Zheng et al. 2022",
        lambda model: (_solved(clp, ClpConfig()),) if convolution_norm_pairs(model) else (),
        trigger_free=True,
    ),
    "fine-prune": Method(
        "silence the neurons that clean images leave dormant, then fine-tune the rest; needs no trigger",
        "Liu et al. 2018",
        lambda model: (_trained(fine_prune, FinePruneConfig()),),
        trigger_free=True,
    ),
    "fst": Method(
        "start the last layer anew and push it away from what it was; needs no trigger",
        "Min et al. 2023",
        lambda model: (_trained(fst, FstConfig()),) if linear_head(model) else (),
        trigger_free=True,
    ),
    "ft-sam": Method(
        "fine-tune to weights around which the loss is flat; needs no trigger",
        "Zhu et al. 2023",
        lambda model: (_trained(sam, SamConfig()),),
        trigger_free=True,
    ),
    "anp": Method(
        "silence neurons that small changes of the weights turn against clean images; needs no trigger",
        "Wu and Wang 2021",
        lambda model: (_trained(anp, AnpConfig()),),
        trigger_free=True,
    ),
    "i-bau": Method(
        "unlearn the worst change that one pattern does to all images; needs no trigger",
        "Zeng et al. 2022",
        lambda model: (_trained(ibau, IbauConfig()),),
        trigger_free=True,
    ),
}
AUTO = ("refit-distilled", "unlearn-distilled", "refit")
"""What `--method auto` tries, in this order, until a candidate passes the guard with a margin. The cheapest,
`refit`, comes last: stamped images often get a third class from it. Pruning never passed where these did
not, and methods that need no trigger left every backdoor above 10 % or broke a class."""
