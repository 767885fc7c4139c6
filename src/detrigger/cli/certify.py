"""`detrigger certify`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from detrigger.certify import CertifyConfig
from detrigger.certify import certify as certified
from detrigger.cli.console import emit, show
from detrigger.cli.inputs import InputFlags, read_inputs
from detrigger.report.text import certification


def certify(
    model: Path,
    /,
    *,
    inputs: InputFlags,
    config: Annotated[CertifyConfig, Parameter(name="*")],
    format: Literal["text", "json"] = "text",
) -> int:
    """Say for how many images no patch up to a size can change the answer, asked through double masking.

    This measures a wrapper around the model (PatchCleanser, Xiang et al. 2022); the model is not changed, and
    by itself it is as easily misled as before.

    Parameters
    ----------
    model
        Weights, as `scan` takes them.
    format
        Of what is printed.
    """
    classifier, images = read_inputs(model, inputs)
    result = certified(classifier, images, config)
    if format == "json":
        emit(msgspec.json.encode(result))
    else:
        show(certification(result))
    return 0
