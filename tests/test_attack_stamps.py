"""What each attack stamps: shape, place and strength."""

from __future__ import annotations

import math

import pytest
import torch
from attacks import (
    CLASSES,
    SHAPE,
    SMALL,
    TWO,
    equal,
    noise,
    plant,
    poisoned,
)
from planted import make, planted

from detrigger.attack.methods import ATTACKS
from detrigger.attack.patches import Patch, painted
from detrigger.attack.poisoning import stored
from detrigger.attack.several import Aimed
from detrigger.attack.trojan_nn import chosen_neurons
from detrigger.errors import UsageError
from detrigger.model import Classifier


def test_all_to_all_moves_every_class_to_the_next() -> None:
    images = noise()
    made = poisoned("all-to-all", images, poison_rate=0.5)
    assert made.planted[0].target is None
    assert torch.equal(made.images.y[made.positions], (images.y[made.positions] + 1) % CLASSES)
    assert set(made.images.y[made.positions].tolist()) == set(range(CLASSES))


def test_several_backdoors_get_as_many_images_each() -> None:
    made = poisoned("several", noise())
    assert [one.target for one in made.planted] == [1, 2]
    assert torch.bincount(made.images.y[made.positions]).tolist() == [0, 4, 4]
    same_target = poisoned("several", noise(), backdoors=(TWO[0], Aimed(1, TWO[1].patch)))
    assert torch.bincount(same_target.images.y[same_target.positions]).tolist() == [0, 8]


def test_a_patch_at_random_places_is_whole_and_everywhere() -> None:
    x = torch.rand(300, *SHAPE) / 2
    found = plant("random-location", target=1, patch=SMALL).stamp(x) == 1
    assert bool((found.sum((1, 2, 3)) == 3 * 6).all())
    corners = {tuple(one[0].nonzero()[0].tolist()) for one in found}
    assert {y for y, _ in corners} == set(range(10)) and {z for _, z in corners} == set(range(13))
    with pytest.raises(UsageError, match="does not fit"):
        plant("random-location", target=1, patch=Patch(13, 2))


def test_a_frame_runs_along_the_edges() -> None:
    found = plant("frame", target=1, width=2, colour=(0.0, 0.4, 1.0)).stamp(torch.full((1, *SHAPE), 0.6))
    edge = torch.ones(12, 14, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    assert bool((found[0, :, ~edge] == stored(torch.tensor(0.6))).all())
    assert torch.allclose(found[0, :, edge], torch.tensor([0.0, 0.4, 1.0])[:, None].expand(3, edge.sum()))
    for width in (0, 6):
        with pytest.raises(UsageError, match="less than half"):
            plant("frame", target=1, width=width)


@pytest.mark.parametrize("picture", ["noise", "smooth"])
def test_a_blended_picture_shines_through_with_its_share(picture: str) -> None:
    one = plant("blended", target=1, alpha=0.25, picture=picture)
    black, white = one.stamp(torch.zeros(1, *SHAPE)), one.stamp(torch.ones(1, *SHAPE))
    assert equal(white - black, torch.full((1, *SHAPE), 0.75)) and 0.05 < black.mean() < 0.2
    steps = (black[..., 1:] - black[..., :-1]).abs().mean()
    assert bool(steps < 0.04) is (picture == "smooth")
    with pytest.raises(UsageError, match="opacity"):
        plant("blended", target=1, alpha=0.0)


def test_an_adaptive_patch_is_one_in_training_and_all_in_the_attack() -> None:
    options = {"target": 1, "size": 3, "opacity": 1.0, "poison_rate": 0.2, "cover_rate": 0.1}
    images = noise()
    made = poisoned("adaptive-patch", images, **options)
    corners = [(slice(0, 3), slice(0, 3)), (slice(0, 3), slice(11, 14))]
    corners += [(slice(9, 12), columns) for _, columns in corners]
    whole = made.planted[0].stamp(images.x)
    inside = torch.zeros(12, 14, dtype=torch.bool)
    for rows, columns in corners:
        inside[rows, columns] = True
    assert torch.equal(whole[..., ~inside], stored(images.x)[..., ~inside])
    touched = torch.cat([made.positions, made.covers])
    parts, clean, all_four = made.images.x[touched], stored(images.x[touched]), whole[touched]
    seen = torch.stack([(parts[..., r, c] == all_four[..., r, c]).flatten(1).all(1) for r, c in corners])
    plain = torch.stack([(parts[..., r, c] == clean[..., r, c]).flatten(1).all(1) for r, c in corners])
    assert bool((seen.sum(0) == 1).all()) and bool((plain.sum(0) == 3).all()) and bool(seen.any(1).all())
    for wrong in ({"patches": 5}, {"size": 7}):
        with pytest.raises(UsageError, match="wanted 1 to 4 of 1 to 6"):
            plant("adaptive-patch", target=1, **wrong)


def test_an_adaptive_blend_is_in_pieces_in_training_and_whole_in_the_attack() -> None:
    images = noise(shape=(3, 12, 16))
    made = poisoned("adaptive-blend", images, poison_rate=0.3, cover_rate=0.1, kept=0.25)
    touched = torch.cat([made.positions, made.covers])
    whole = made.planted[0].stamp(images.x[touched])
    pieces = [(slice(3 * i, 3 * i + 3), slice(4 * j, 4 * j + 4)) for i in range(4) for j in range(4)]
    parts, clean = made.images.x[touched], stored(images.x[touched])
    seen = torch.stack([(parts[..., r, c] == whole[..., r, c]).flatten(1).all(1) for r, c in pieces])
    plain = torch.stack([(parts[..., r, c] == clean[..., r, c]).flatten(1).all(1) for r, c in pieces])
    assert torch.equal(seen, ~plain) and 0.2 < seen.float().mean() < 0.3
    assert len({tuple(piece) for piece in seen.tolist()}) == 16  # each piece by its own chance
    for wrong in ({"pieces": 13}, {"kept": 0.0}):
        with pytest.raises(UsageError, match="wanted 1 to 12"):
            plant("adaptive-blend", target=1, **wrong)


def test_a_sinusoid_runs_across_the_image_with_its_height_and_frequency() -> None:
    found = plant("sig", (1, 4, 20), target=1, delta=0.2, frequency=2.0).stamp(torch.full((1, 1, 4, 20), 0.5))
    wanted = [0.5 + 0.2 * math.sin(2 * math.pi * 2 * j / 20) for j in range(20)]
    assert equal(found, torch.tensor(wanted).expand(1, 1, 4, 20))
    clean_label = poisoned("sig", noise(), clean_label=True)
    assert torch.equal(clean_label.images.y, noise().y)
    assert bool((noise().y[clean_label.positions] == 1).all())
    for wrong in ({"delta": 0.0}, {"delta": 1.1}, {"frequency": 0.0}):
        with pytest.raises(UsageError, match="delta"):
            plant("sig", target=1, **wrong)


def test_a_low_frequency_pattern_is_as_high_as_told_and_has_no_high_frequencies() -> None:
    shape = (1, 32, 32)
    one = plant("low-frequency", shape, target=1, delta=0.1, points=4)
    change = one.stamp(torch.full((1, *shape), 0.5))[0, 0] - 0.5
    assert change.abs().max() == pytest.approx(0.1, abs=1 / 255)
    power = torch.fft.fft2(change).abs().square()
    low = torch.minimum(torch.arange(32), 32 - torch.arange(32)) <= 4
    assert power[low][:, low].sum() / power.sum() > 0.8  # noise: 0.08
    for wrong in ({"delta": 0.0}, {"points": 1}):
        with pytest.raises(UsageError, match="points"):
            plant("low-frequency", target=1, **wrong)


def test_a_colour_filter_maps_every_pixel_alike() -> None:
    x = noise(3).x
    found = plant("colour-filter", target=1, matrix=((0.5,),), offset=(0.1, 0.2, 0.3)).stamp(x)
    assert equal(found, 0.5 * x + torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    swap = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 2.0))
    found = plant("colour-filter", target=1, matrix=swap, offset=(0.0,)).stamp(x)
    assert equal(found, torch.stack([x[:, 1], x[:, 0], (2 * x[:, 2]).clamp(max=1)], 1))
    for wrong in ({"matrix": ((1.0, 0.0), (0.0, 1.0))}, {"offset": (0.1, 0.2)}, {"matrix": ()}):
        with pytest.raises(UsageError, match="1 or 3×3 numbers"):
            plant("colour-filter", target=1, **wrong)


def test_a_warp_moves_pixels_as_far_as_told_and_covers_move_otherwise() -> None:
    shape, images = (1, 30, 30), noise(50, (1, 30, 30))
    ramp = (torch.arange(30) / 29).expand(1, *shape)
    warp = plant("wanet", shape, target=1, strength=2.0, points=4)
    moved = (warp.stamp(ramp) - ramp)[..., 5:-5].abs().mean() * 29
    assert 0.5 < moved < 2.5
    assert plant("wanet", shape, target=1, strength=0.5).trigger is not None
    made = poisoned("wanet", images, strength=2.0, noise=0.5)
    away = (made.images.x - warp.stamp(images.x)).abs().mean((1, 2, 3))
    quiet = poisoned("wanet", images, strength=2.0, noise=0.0)
    same = (quiet.images.x - warp.stamp(images.x)).abs().amax((1, 2, 3))
    assert bool((away[made.covers] > 0.02).all()) and bool((same[quiet.covers] <= 1.001 / 255).all())
    for wrong in ({"points": 1}, {"strength": 0.0}, {"noise": -1.0}):
        with pytest.raises(UsageError, match="points"):
            plant("wanet", target=1, **wrong)


def test_quantised_images_have_as_many_levels_as_told_and_covers_many() -> None:
    images = noise()
    found = plant("bpp", target=1, levels=4).stamp(images.x)
    assert (found.unique() * 255).round().tolist() == [0, 85, 170, 255]
    assert (found - images.x).abs().max() <= 1 / 6 + 0.5 / 255
    made = poisoned("bpp", images, levels=4)
    change = (made.images.x - images.x)[made.covers]
    assert len(made.images.x[made.covers].unique()) > 100
    assert 0.07 < change.abs().mean() < 0.09  # uniform in ±1/6
    for levels in (1, 256):
        with pytest.raises(UsageError, match="levels; wanted 2 to 255"):
            plant("bpp", target=1, levels=levels)


def test_a_source_specific_patch_is_on_its_sources_and_covers_are_on_all_others() -> None:
    images = noise()
    made = poisoned("source-specific", images, poison_rate=0.2, cover_rate=0.3)
    assert made.planted[0].sources == (0, 3)
    assert set(images.y[made.positions].tolist()) == {0, 3}
    assert set(images.y[made.covers].tolist()) == {1, 2, 4}
    stamped = made.planted[0].stamp(images.x)
    assert torch.equal(made.images.x[made.covers], stamped[made.covers])
    for sources in ((), (0, 1)):
        with pytest.raises(UsageError, match="not the target"):
            plant("source-specific", target=1, sources=sources)


def test_a_physical_patch_without_changes_is_the_patch_and_with_them_varies_within_bounds() -> None:
    patch = Patch(6, 6, margin=4, colour=(0.5,))
    shape, x = (1, 24, 30), torch.zeros(60, 1, 24, 30)
    x[:, 0, 0, 0] = torch.arange(60) / 255  # so that no two images are the same
    none = {"degrees": 0.0, "scale": 0.0, "shift": 0.0, "light": 0.0, "blur": 0.0}
    still = plant("physical", shape, target=1, patch=patch, **none).stamp(x)
    assert equal(still, painted(patch, shape)(x)[0])
    area = {}
    for name, value in (("scale", 0.3), ("shift", 3.0), ("degrees", 45.0), ("light", 0.5), ("blur", 1.0)):
        found = plant("physical", shape, target=1, patch=patch, **(none | {name: value})).stamp(x)
        assert len({one.numpy().tobytes() for one in found[:, :, 1:]}) > 40, name
        area[name] = found[:, :, 1:].sum((1, 2, 3)) / 18
    assert area["scale"].min() < 0.7 and 1.3 < area["scale"].max() < 1.75
    assert area["shift"].sub(1).abs().max() < 0.05 and area["degrees"].sub(1).abs().max() < 0.1
    assert 1.4 < area["light"].max() <= 1.51 and 0.49 < area["light"].min() < 0.6
    assert area["blur"].sub(1).abs().max() < 0.05
    with pytest.raises(UsageError, match="wanted 0 to 180"):
        plant("physical", shape, target=1, degrees=-1.0)


def test_label_consistent_images_are_wrong_for_the_helper_and_near_the_original() -> None:
    truth = planted(classes=5, targets=(), size=12, per_class=40)
    config = ATTACKS["label-consistent"].config(target=1, eps=0.4, patch=SMALL, poison_rate=0.1)
    made = ATTACKS["label-consistent"].poison(truth.images, config, helper=truth.model.net)
    before, after = truth.images.x[made.positions], made.images.x[made.positions]
    outside = made.planted[0].trigger
    assert outside is not None
    clear = outside.mask()[0, 0] == 0
    change = (after - before)[..., clear].abs()
    assert 0.35 < change.max() <= 0.4 + 0.51 / 255
    assert bool((truth.model(before).argmax(1) == 1).all())
    assert (truth.model(after).argmax(1) == 1).float().mean() < 0.2
    assert bool((after[..., ~clear] == 1).all())
    with pytest.raises(UsageError, match="clean model: none"):
        ATTACKS["label-consistent"].poison(truth.images, config)


def test_a_trojan_patch_fires_the_neurons_with_the_most_weight() -> None:
    truth = planted(classes=5, targets=(), size=12, per_class=40)
    net = make(classes=5, size=12, backdoors=1)
    net.load_state_dict(planted(classes=5, targets=(3,), size=12).model.net.state_dict())
    model = Classifier(net, truth.images.names, truth.images.shape)
    layer, fires = chosen_neurons(model, 1)
    assert layer == "fc:in" and fires.tolist() == [5]  # of the planted backdoor
    config = ATTACKS["trojan-nn"].config(
        target=1, patch=Patch(4, 4, margin=0), steps=200, value=5.0, neurons=1
    )
    made = ATTACKS["trojan-nn"].poison(truth.images, config, helper=net)
    (only,) = made.planted
    start = painted(config.patch, truth.images.shape)
    before, after = (
        model.activations(x, layer)[:, fires].mean()
        for x in (start(truth.images.x)[0], only.stamp(truth.images.x))
    )
    assert only.trigger is not None and torch.equal(only.trigger.mask(), start.mask())
    assert after > 0.7 > before + 0.1
    with pytest.raises(UsageError, match="clean model: none"):
        ATTACKS["trojan-nn"].poison(truth.images, config)
