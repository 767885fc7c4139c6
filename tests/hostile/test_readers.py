"""Whatever the bytes, every reader gives a result or a DetriggerError of one line, and nothing else."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from detrigger.errors import DetriggerError
from hostile.readers import READERS, ends_well

SEEDS = {name: list(seeds()) for name, (_, seeds) in READERS.items()}
QUICK = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@some.composite
def damaged(draw: some.DrawFn, name: str) -> bytes:
    """A sound file with a few changes: bytes replaced, put in, taken out or doubled, or the end cut off."""
    data = bytearray(draw(some.sampled_from(SEEDS[name])))
    for _ in range(draw(some.integers(1, 4))):
        at, length = draw(some.integers(0, max(0, len(data) - 1))), draw(some.integers(1, 8))
        match draw(some.integers(0, 4)):
            case 0:
                data[at : at + length] = draw(some.binary(min_size=length, max_size=length))
            case 1:
                data[at:at] = draw(
                    some.sampled_from([b"\xff" * length, b"\0" * length, b"(", b"R.", b"}", b"9" * length])
                )
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + 20 * length]
            case _:
                del data[at:]
    return bytes(data)


LACKS = {"list": "images cannot be read", "settings": "weights|need transformers"}
"""What is missed beside sound files, which stand alone here."""


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    for seed in SEEDS[name]:
        try:
            READERS[name][0](seed, tmp_path)
        except DetriggerError as error:
            assert name in LACKS and re.search(LACKS[name], str(error))


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    @QUICK
    @given(damaged(name))
    def holds(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ends_well(name, data, Path(folder))

    holds()


@pytest.mark.parametrize("name", READERS)
def test_any_bytes_at_all_are_read_or_refused(name: str) -> None:
    @QUICK
    @given(some.binary(max_size=200))
    def holds(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ends_well(name, data, Path(folder))

    holds()
