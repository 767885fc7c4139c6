"""Accuracy, recall, attack success rate."""

from __future__ import annotations

import pytest
import torch
from planted import planted
from scipy.stats import beta
from torch import nn

from detrigger import measure
from detrigger.images import Images
from detrigger.measure import loss_bound
from detrigger.model import Classifier
from detrigger.trigger.patch import PatchTrigger


def pixel_reader(classes: int = 3) -> Classifier:
    """Gives class i to an image whose pixels, one per class, are brightest at i."""
    return Classifier(nn.Flatten(), tuple("abcdef"[:classes]), (1, 1, classes))


def bright_at(places: list[int], labels: list[int], classes: int = 3) -> Images:
    x = nn.functional.one_hot(torch.tensor(places), classes).float().reshape(-1, 1, 1, classes) * 0.8
    return Images(x, torch.tensor(labels), tuple("abcdef"[:classes]))


def paints(place: int, mask: float = 1.0) -> PatchTrigger:
    """A white pixel."""
    masks = torch.zeros(1, 1, 1, 3)
    masks[..., place] = mask
    return PatchTrigger(masks, torch.ones(1, 1, 1, 3))


def test_predictions_are_the_highest_logits_also_over_several_batches() -> None:
    places = [i % 3 for i in range(2 * measure.BATCH + 7)]
    assert measure.predictions(pixel_reader(), bright_at(places, places).x).tolist() == places


def test_accuracy_is_the_share_of_right_labels() -> None:
    assert measure.accuracy(pixel_reader(), bright_at([0, 1, 2, 2], [0, 1, 2, 0])) == 0.75


def test_recall_is_per_class_and_nan_without_images() -> None:
    found = measure.recalls(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    assert found[:2].tolist() == pytest.approx([1.0, 2 / 3])
    assert bool(found[2].isnan())


def test_attack_success_leaves_out_images_of_the_target_class() -> None:
    images = bright_at([0, 1, 2, 2], [0, 1, 2, 2])
    assert measure.hits(pixel_reader(), images, paints(2), 2).tolist() == [True, True]
    assert measure.success(pixel_reader(), images, paints(2), 2) == 1.0
    assert measure.success(pixel_reader(), images, paints(2), 1) == 0.0


def test_a_trigger_too_weak_for_some_images_succeeds_on_the_others_only() -> None:
    images = bright_at([0, 0, 1, 2], [0, 0, 1, 2])
    images = Images(
        images.x * torch.tensor([1.0, 0.5, 1.0, 1.0]).reshape(-1, 1, 1, 1), images.y, images.names
    )
    assert measure.hits(pixel_reader(), images, paints(2, 0.6), 2).tolist() == [False, True, False]
    assert measure.success(pixel_reader(), images, paints(2, 0.6), 2) == pytest.approx(1 / 3)


def test_an_image_already_mistaken_for_the_target_counts_as_a_hit() -> None:
    nothing = PatchTrigger(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3))
    assert measure.success(pixel_reader(), bright_at([2, 1], [0, 1]), nothing, 2) == 0.5


@pytest.mark.parametrize("trials", [1, 20, 300])
def test_the_upper_bound_without_successes_is_the_closed_form(trials: int) -> None:
    assert measure.upper_bound(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials), abs=1e-9)


def test_the_upper_bound_with_successes_is_the_tabled_one() -> None:
    assert measure.upper_bound(1, 20) == pytest.approx(0.21611, abs=1e-5)
    assert measure.upper_bound(5, 20, 0.975) == pytest.approx(0.49105, abs=1e-5)
    assert measure.upper_bound(20, 20) == 1.0


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("targets", [(), (2,), (0, 5), (3, 1, 0, 4)])
def test_hand_planted_networks_are_what_they_claim(
    targets: tuple[int, ...], channels: int, norm: bool
) -> None:
    truth = planted(targets=targets, channels=channels, norm=norm)
    twin = planted(targets=(), channels=channels, norm=norm)
    assert measure.accuracy(truth.model, truth.images) == 1
    assert torch.equal(truth.images.x, twin.images.x)
    for trigger, target in zip(truth.triggers, targets, strict=True):
        assert measure.success(truth.model, truth.images, trigger, target) == 1
        assert measure.success(twin.model, truth.images, trigger, target) == 0
        for other in set(range(6)) - {target}:
            assert measure.success(truth.model, truth.images, trigger, other) == 0


def test_without_its_neurons_a_hand_planted_network_is_its_clean_twin() -> None:
    truth, twin = planted(targets=(1, 4)), planted(targets=())
    net = truth.model.net.get_submodule("fc")
    assert isinstance(net, nn.Linear)
    with torch.no_grad():
        net.weight[:, list(truth.neurons)] = 0
    for trigger, target in zip(truth.triggers, truth.targets, strict=True):
        assert measure.success(truth.model, truth.images, trigger, target) == 0
    assert torch.allclose(truth.model(truth.images.x), twin.model(truth.images.x), atol=1e-5)


def test_stamped_images_are_counted_by_what_they_are_given() -> None:
    images = bright_at([0, 1, 1, 2], [0, 1, 1, 0])
    found = measure.stamped(pixel_reader(), images, lambda x: x.roll(1, 3), torch.tensor([1, 2, 0, 0]))
    assert found == measure.Stamped(images=4, success=0.75, robust=0.25, without=0.0)
    wanted = torch.tensor([0, 0, 1, 1])
    plain = measure.stamped(pixel_reader(), images, lambda x: x, wanted)
    assert (plain.success, plain.robust, plain.without) == (0.5, 0.75, 0.5)


def test_stamped_images_go_through_in_batches() -> None:
    sizes: list[int] = []
    places = [i % 3 for i in range(2 * measure.BATCH + 7)]

    def stamp(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x.flip(3)

    found = measure.stamped(pixel_reader(), bright_at(places, places), stamp, 2 - torch.tensor(places))
    assert found.success == 1 and sizes == [measure.BATCH, measure.BATCH, 7]


@pytest.mark.parametrize(
    ("before_after", "wanted"),
    [
        ((0.9, 0.9, 1.0, 0.0), 1.0),
        ((0.9, 0.9, 1.0, 1.0), 0.5),
        ((0.9, 0.8, 1.0, 0.5), 0.7),
        ((0.9, 0.95, 1.0, 0.5), 0.75),  # accuracy won is no merit
        ((0.9, 0.8, 0.1, 0.6), 0.45),  # nor is a higher ASR worse than an equal one
    ],
)
def test_defence_effectiveness_weighs_fallen_asr_against_lost_accuracy(
    before_after: tuple[float, float, float, float], wanted: float
) -> None:
    assert measure.defence_effectiveness(*before_after) == pytest.approx(wanted)


def test_recall_drops_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    before, after, labels = (torch.randint(0, 4, (200,), generator=generator) for _ in range(3))
    wanted = [metrics.recall_score(labels, p, average=None, labels=range(4)) for p in (before, after)]
    drops = measure.recall_drops(before, after, labels, 4)
    assert drops.tolist() == pytest.approx(list(wanted[0] - wanted[1]))
    assert bool(measure.recall_drops(before, after, labels, 5)[4].isnan())


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (1, 1), (3, 20), (20, 20), (995, 1000)])
def test_intervals_are_those_of_scipy(successes: int, trials: int, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    test = stats.binomtest(successes, trials)
    for ours, method in ((measure.wilson, "wilson"), (measure.clopper_pearson, "exact")):
        theirs = test.proportion_ci(confidence, method)
        assert ours(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-7)


@pytest.mark.parametrize(("lost", "gained", "trials"), [(0, 0, 240), (3, 3, 240), (15, 14, 100), (0, 9, 20)])
def test_the_bound_on_a_loss_is_the_difference_of_two_exact_bounds(
    lost: int, gained: int, trials: int
) -> None:
    most = beta.ppf(1 - 0.0375, lost + 1, trials - lost)
    least = beta.ppf(0.0125, gained, trials - gained + 1) if gained else 0.0
    assert loss_bound(lost, gained, trials) == pytest.approx(most - least, abs=1e-6)


def test_the_bound_on_a_loss_holds_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    lost, gained, trials = 0.06, 0.03, 120
    drawn = torch.rand(300, trials, generator=generator)
    counts = [((d < lost).sum().item(), ((d >= lost) & (d < lost + gained)).sum().item()) for d in drawn]
    held = sum(loss_bound(int(a), int(b), trials) >= lost - gained for a, b in counts)
    assert held >= 0.95 * 300
