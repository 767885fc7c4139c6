"""`detrigger identify`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from detrigger.cli.console import emit, show
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.errors import DataError, UsageError
from detrigger.identify import compare
from detrigger.load import load_trigger
from detrigger.report.text import match_table


def identify(
    model: Path,
    found: Path,
    known: Path,
    /,
    *,
    inputs: InputFlags,
    target: int | None = None,
    layer: Annotated[tuple[str, ...], Parameter(negative_iterable="", consume_multiple=False)] = (),
    format: Literal["text", "json"] = "text",
) -> int:
    """Compare a found trigger with a known one: effectiveness, looks, neurons.

    Parameters
    ----------
    model
        Weights that both triggers are tried on.
    found
        Trigger .safetensors as `scan --out` writes it.
    known
        The trigger to compare it with, in the same format.
    target
        Class that both send images to; by default as written in the file of the found trigger.
    layer
        Layer whose neurons to compare; repeat for more. By default the penultimate and two inner ones.
    format
        Of what is printed.
    """
    classifier, images = read_inputs(model, inputs)
    (first, facts), (second, _) = load_trigger(found), load_trigger(known)
    wanted = target if target is not None else _target(facts, found)
    for trigger, path in ((first, found), (second, known)):
        if len(trigger) != 1:
            raise DataError(f"{path} holds {len(trigger)} triggers, wanted one; save them one by one")
    match = compare(classifier, images, first, second, wanted, layer)
    if format == "json":
        emit(msgspec.json.encode(match))
    else:
        show(match_table(match, classifier.classes))
    return 0


def _target(facts: dict[str, str], path: Path) -> int:
    try:
        return int(facts["target"])
    except (KeyError, ValueError) as error:
        raise UsageError(f"{path} does not say its target class; give --target") from error
