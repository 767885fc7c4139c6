"""What attacks share: which images are stamped, what they are labelled as, and 8-bit rounding."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detrigger.attack import Planted, Poisoned, Stamp
from detrigger.errors import DataError, UsageError
from detrigger.images import Images
from detrigger.trigger import Trigger


def stored(x: Tensor) -> Tensor:
    """Values in [0, 1] as they come back from an 8-bit file."""
    return (x.clamp(0, 1) * 255).round() / 255


def stamp_of(trigger: Trigger) -> Stamp:
    """The stamp of a stack of one. Computed on the CPU wherever the images are, so it is the same there."""
    return lambda x: stored(trigger(x.cpu())[0]).to(x.device)


def ordinary(
    trigger: Trigger, target: int | None, sources: tuple[int, ...] | None = None
) -> tuple[Planted, ...]:
    """The one backdoor that a stack of one opens."""
    return (Planted(stamp_of(trigger), target, sources, trigger),)


def victims(
    planted: Planted, y: Int[Tensor, " n"], classes: int
) -> tuple[Bool[Tensor, " n"], Int[Tensor, " n"]]:
    """On which images a backdoor counts, and the class that each of them is to be given.

    Images that are not of the target class and, if the backdoor has sources, are of those; all-to-all: all
    images, (y + 1) mod classes.
    """
    if planted.target is None:
        return torch.ones_like(y, dtype=torch.bool), (y + 1) % classes
    mask = torch.ne(y, planted.target)
    if planted.sources is not None:
        mask &= torch.isin(y, torch.tensor(planted.sources, device=y.device))
    return mask, torch.full_like(y, planted.target)


def untouched(images: Images) -> Poisoned:
    """A training set with nothing in it yet; `add_poison` and `add_cover` go on from here."""
    nothing = torch.empty(0, dtype=torch.long)
    return Poisoned(images, nothing, nothing, ())


def add_poison(
    so_far: Poisoned,
    planted: Planted,
    count: int,
    seed: int,
    *,
    stamp: Stamp | None = None,
    clean_label: bool = False,
) -> Poisoned:
    """Stamp and relabel `count` more images, drawn from the backdoor's victims that are still as they were.

    `stamp`, by default the backdoor's own, is what goes on training images. With `clean_label` images of the
    target class are drawn instead, so that no label is wrong.
    Raises UsageError for a target or source that is no class, DataError if there are too few such images.
    """
    images = so_far.images
    _check_classes(planted, len(images.names))
    among, wanted = victims(planted, images.y, len(images.names))
    what = f"that are not of class {planted.target}" if planted.target is not None else "that there are"
    if clean_label:
        among, what = torch.eq(images.y, planted.target or 0), f"of class {planted.target}"
    elif planted.sources is not None:
        what = f"of classes {', '.join(map(str, planted.sources))}"
    chosen = _draw(so_far, among, count, seed, what)
    x, y = images.x.clone(), images.y.clone()
    x[chosen] = (stamp or planted.stamp)(x[chosen])
    y[chosen] = wanted[chosen]
    positions = torch.cat([so_far.positions, chosen.cpu()]).sort().values
    done = Images(x, y, images.names, images.path)
    return Poisoned(done, positions, so_far.covers, (*so_far.planted, planted))


def add_cover(
    so_far: Poisoned, stamp: Stamp, count: int, seed: int, *, among: Bool[Tensor, " n"] | None = None
) -> Poisoned:
    """Stamp `count` more images, of `among` or any, that keep their labels; raises DataError if too few."""
    if count == 0:
        return so_far
    images = so_far.images
    where = torch.ones_like(images.y, dtype=torch.bool) if among is None else among
    chosen = _draw(so_far, where, count, seed, "left for covers")
    x = images.x.clone()
    x[chosen] = stamp(x[chosen])
    covers = torch.cat([so_far.covers, chosen.cpu()]).sort().values
    return Poisoned(Images(x, images.y, images.names, images.path), so_far.positions, covers, so_far.planted)


def share(rate: float, images: Images, *, name: str = "poison_rate", least: int = 1) -> int:
    """How many images a share of all of them is; raises UsageError outside [0, 1], or for fewer than `least`.

    `name` is that of the option.
    """
    if not 0 <= rate <= 1 or (least and rate == 0):
        raise UsageError(f"{name} {rate:g}; wanted {'above' if least else 'at least'} 0 and at most 1")
    count = round(rate * len(images))
    if count < least:
        raise UsageError(f"{name} {rate:g} means {count} of {len(images)} images; wanted at least {least}")
    return count


def draws(x: Float[Tensor, "n c h w"], count: int, seed: int) -> Float[Tensor, "n count"]:
    """Uniform numbers in [0, 1) for each image, from its own pixels and the seed.

    So a stamp that varies is the same for an image whichever others it comes with, and in whatever order.
    """
    found = []
    for image in (x.cpu() * 255).round().to(torch.uint8):
        digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=7, key=str(seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        found.append(torch.rand(count, generator=generator))
    return torch.stack(found) if found else torch.empty(0, count)


def _draw(so_far: Poisoned, among: Bool[Tensor, " n"], count: int, seed: int, what: str) -> Int[Tensor, " m"]:
    free = among.cpu().clone()
    free[so_far.positions] = False
    free[so_far.covers] = False
    candidates = free.nonzero()[:, 0]
    if not 1 <= count <= len(candidates):
        raise DataError(
            f"{count} images to stamp, wanted from 1 to the {len(candidates)} {what}; change rate or count"
        )
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    return candidates[order[:count]].sort().values.to(among.device)


def _check_classes(planted: Planted, classes: int) -> None:
    named = {"target": (planted.target,), "source": planted.sources or ()}
    for name, numbers in named.items():
        wrong = [number for number in numbers if number is not None and not 0 <= number < classes]
        if wrong:
            raise UsageError(f"{name} class {wrong[0]}; wanted 0 to {classes - 1}")
