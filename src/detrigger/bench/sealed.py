"""A zoo's model as a stranger sees it: weights, architecture and clean images. No truth comes in here.

The scanner runs in a process of its own that is given a `Sealed` and nothing else; what it finds is in a file
before anybody looks at the model's record.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from detrigger.bench.processes import peak_memory
from detrigger.clean import CleanConfig, Cleaning, clean
from detrigger.errors import InputError
from detrigger.files.inspect import sha256
from detrigger.images import Images
from detrigger.load import load_classifier, load_images
from detrigger.model import Classifier
from detrigger.report.document import document
from detrigger.report.schema import Document
from detrigger.save import save_classifier, save_trigger, write_atomically
from detrigger.scan import ScanConfig, scan


@dataclass(frozen=True)
class Sealed:
    """What is scanned, and where what is found goes."""

    weights: Path
    architecture: str
    """`file.py:factory`."""
    data: Path
    """Of its arrays, x and y are read."""
    card: Path
    """`NAME.json`; triggers and the repaired model go into the folder NAME beside it."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Of the architecture."""
    config: ScanConfig = ScanConfig()
    repair: CleanConfig | None = None
    """How to repair; None: not at all."""
    per_class: int | None = None
    """Images of each class at most that scan and repair get; None: all."""
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Of triggers and the repaired model."""
        return self.card.with_suffix("")


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What the scanner says of one model."""

    scan: Document
    peak_memory: int
    """Of the process that scanned, and repaired if that was asked for, in bytes."""
    repaired: str | None = None
    """File of the repaired model, relative to the card; None if there is none."""
    repair_cpu_seconds: float | None = None
    """What repair and rescans took; None if none was tried."""
    asked: dict[str, Any] = {}
    """How to repair, and images per class."""


def verdict(sealed: Sealed) -> Path:
    """Scan, repair if asked and called for, and write the card; a card that is there already is kept.

    A card is of use if model, options, seed and version are the same. Returns its path.
    """
    if _done(sealed):
        return sealed.card
    sealed.folder.mkdir(parents=True, exist_ok=True)
    model, images = opened(sealed)
    found = scan(model, images, sealed.config, seed=sealed.seed)
    cleaning: Cleaning | None = None
    repaired: str | None = None
    began = time.process_time()
    if sealed.repair and (found.finding.verdict == "backdoored" or sealed.repair.even_if_clean):
        cleaning = clean(model, images, sealed.config, sealed.repair, first=found, seed=sealed.seed)
    spent = None if cleaning is None else time.process_time() - began
    if cleaning is not None and cleaning.repaired:
        repaired = f"{sealed.folder.name}/repaired.safetensors"
        save_classifier(cleaning.model, sealed.card.parent / repaired)
    told = document(found, cleaning=cleaning, trigger_folder=sealed.folder.name, model=model)
    for backdoor, entry in zip(found.backdoors, told.backdoors, strict=True):
        path = sealed.card.parent / entry.trigger
        save_trigger(backdoor.trigger, path, target=backdoor.target, family=backdoor.family)
    card = Card(
        scan=told,
        peak_memory=peak_memory(),
        repaired=repaired,
        repair_cpu_seconds=spent,
        asked=_asked(sealed),
    )
    write_atomically(sealed.card, msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")
    return sealed.card


def opened(sealed: Sealed) -> tuple[Classifier, Images]:
    """The model and its clean images, read as any others would be."""
    images = load_images(sealed.data, limit_per_class=sealed.per_class)
    model = load_classifier(
        sealed.weights, sealed.architecture, sealed.arguments, shape=images.shape, names=images.names
    )
    return model, images


def read_card(path: Path) -> Card:
    """Raises InputError if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is not a card of this version ({error}); scan the model again") from error


def _done(sealed: Sealed) -> bool:
    if not sealed.card.exists():
        return False
    try:
        card = read_card(sealed.card)
    except InputError:
        return False
    told = card.scan
    config = {key: value for key, value in told.config.items() if key != "classes"}
    return (
        told.model.sha256 == sha256(sealed.weights)
        and told.tool.version == version("detrigger")
        and (config, told.seed) == (dataclasses.asdict(sealed.config), sealed.seed)
        and card.asked == _asked(sealed)
    )


def _asked(sealed: Sealed) -> dict[str, Any]:
    repair = dataclasses.asdict(sealed.repair) if sealed.repair else None
    return {"repair": repair, "per_class": sealed.per_class}
