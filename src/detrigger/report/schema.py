"""The shape of report.json, schema version 1. A figure that is not finite is null."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from detrigger.report.baseline import Acceptance
from detrigger.report.json_types import Index, Share, Verdict
from detrigger.report.schema_repair import CleaningRecord, RepairRecord

VERSION = 1
"""Of the schema; goes up when a key is removed, renamed or changes its meaning."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """What wrote the report."""

    name: str
    """`detrigger`."""
    version: str
    """Of detrigger."""
    python: str = ""
    """Version of Python."""
    torch: str = ""
    """Version of PyTorch."""


class PreprocessingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to pixels in [0, 1] before the network saw them: (x - mean) / std."""

    mean: tuple[float, ...]
    """Per channel, or one for all."""
    std: tuple[float, ...]
    """Per channel, or one for all."""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The model that was scanned."""

    path: str
    """File as the user named it; empty for one made in memory."""
    sha256: str
    """Of the file's bytes."""
    format: str
    """Of the file, or `memory`."""
    arch: str
    """Architecture, with its arguments."""
    classes: tuple[str, ...]
    """Names, in the order of the outputs."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    preprocessing: PreprocessingRecord | None = None
    """Null where it was not told."""
    probabilities: bool | None = None
    """The network returns probabilities, not logits; null where it was not told."""
    notes: tuple[str, ...] = ()
    """What to know of how it was read, one sentence each."""


class DataRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The clean images."""

    path: str
    """Folder or file."""
    sha256: str
    """Of pixels and labels."""
    images: Index
    """How many."""
    accuracy: Share | None
    """Of the model on them."""
    recalls: tuple[Share | None, ...] = ()
    """Per class; null for a class without images."""


class ClassRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One class as a possible target."""

    index: Index
    """Position among the outputs."""
    name: str
    """Of the class."""
    size: float | None
    """Of the smallest trigger found, in the unit of its family."""
    log_size_score: float | None
    """How many robust spreads log size lies below the median."""
    p_value: Share | None
    """Chance that a clean model of this many classes has any class with such a score."""
    success: Share | None
    """Attack success rate of the synthesised trigger on held-out images."""
    evidence: dict[str, float | None]
    """Further figures by name."""
    suspect: bool
    """It was flagged as a target."""
    inverted: bool
    """A trigger with enough success was found."""
    best: str
    """Kind of trigger by which it is most suspect."""
    probability: Share
    """That it is a target, by that kind."""


class BackdoorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One backdoor that was found."""

    target: Index
    """Class that stamped images are given."""
    sources: Literal["all"] | tuple[Index, ...]
    """Classes whose images it takes."""
    family: str
    """Kind of trigger."""
    size: float | None
    """In the unit of the family."""
    success: Share | None
    """Attack success rate on held-out images, fp32."""
    probability: Share | None
    """That it is one."""
    trigger: str
    """File of its parameters, relative to the report."""
    picture: str
    """File of its picture, relative to the report."""


class NeuronRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a found and a known trigger do to the neurons of one layer."""

    layer: str
    """Name in the network; ends in `:in` for what goes into the layer."""
    cosine: float | None
    """Of the two mean activation shifts, in [-1, 1]."""
    top_overlap: Share | None
    """Share of the neurons most raised by the known trigger that the found one raises most, too."""
    top_neurons: Index
    """How many neurons that is."""
    activation_clean: float | None
    """Mean activation of those neurons on clean images."""
    activation_known: float | None
    """The same under the known trigger."""
    activation_found: float | None
    """The same under the found trigger."""


class MatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A found trigger beside a known one."""

    target: Index
    """Class of both."""
    success_found: Share | None
    """Attack success rate of the found trigger."""
    success_known: Share | None
    """Attack success rate of the known trigger."""
    size_found: float | None
    """In the unit of its family."""
    size_known: float | None
    """In the unit of its family."""
    mask_overlap: float | None
    """Intersection over union of the masks, in [0, 1]."""
    centre_distance: float | None
    """Between the masks' centres of mass, in pixels."""
    colour_difference: float | None
    """Mean absolute difference of the patterns where both masks are; null if nowhere."""
    structural_similarity: float | None
    """Mean SSIM of the two pictures, in [-1, 1]."""
    neurons: tuple[NeuronRecord, ...]
    """One per layer, the penultimate first."""


class CostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the scan took."""

    seconds: float | None
    """By the clock."""
    cpu_seconds: float | None
    """Of all cores."""
    image_passes: Index
    """Images sent forward (and, while searching, backward) through the network."""
    device: str
    """Where it ran."""
    precision: str
    """Of the search."""


class WrittenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a repaired model."""

    path: str
    sha256: str
    """Of its bytes."""
    format: str
    """As it is told by `detrigger inspect`."""
    difference: float
    """Largest difference of logits between the model in memory and this file read again, on eight images."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A scan, and what was done about it: the whole of report.json."""

    schema_version: Literal[1]
    """Of this schema."""
    tool: Tool
    """What wrote the report."""
    model: ModelRecord
    """That was scanned."""
    data: DataRecord
    """It was scanned with."""
    verdict: Verdict
    """On the model as it was given."""
    probability: Share
    """That the model is backdoored."""
    reasons: tuple[str, ...]
    """One sentence each, the decisive one first."""
    classes: tuple[ClassRecord, ...]
    """Those scanned."""
    backdoors: tuple[BackdoorRecord, ...]
    """Those found."""
    repairs: tuple[RepairRecord, ...]
    """In the order they were tried; empty if none was."""
    cost: CostRecord
    """Of the scan."""
    seed: int
    """Of every random number."""
    config: dict[str, Any]
    """Every option of the scan."""
    family: str = ""
    """Kind of trigger that was searched for."""
    cleaning: CleaningRecord | None = None
    """Null if no repair was asked for."""
    identification: tuple[MatchRecord, ...] = ()
    """Found triggers beside known ones; empty if none was known."""
    written: WrittenRecord | None = None
    """Null if no model was written."""
    accepted: tuple[Acceptance, ...] = ()
    """Findings of this report that somebody has accepted."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of report.json."""
    schema = msgspec.json.schema(Document)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "detrigger report", **schema}
