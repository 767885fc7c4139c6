"""Kinds of figures in report.json. Each may be null where it is not finite."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A share, rate or probability."""
Index = Annotated[int, msgspec.Meta(ge=0)]
"""A position or a count."""
Verdict = Literal["clean", "backdoored", "inconclusive"]
"""On a model."""
