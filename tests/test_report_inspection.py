from __future__ import annotations

import dataclasses

from rich.console import Console

from detrigger.files.archive import Finding
from detrigger.files.inspect import Inspection
from detrigger.files.judge import WouldRun
from detrigger.report.inspection import LISTED, inspection

EVIL = Inspection(
    path="evil\x1b[2J.pth",
    format="pickle",
    description="a pickle",
    size_bytes=1234,
    sha256="ab" * 32,
    tensors=(("fc\x1b[31m.weight", (10, 64), "float32"), ("[red]n", (), "int64")),
    parameters=641,
    would_run=(WouldRun("os.system", "call", "'true'", "high", "data.pkl"),),
    findings=(Finding("low", "a sentence"),),
    dangerous=True,
)


def printed(found: Inspection, *, tensors: bool = False) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(inspection(found, tensors=tensors))
    return captured.get()


def test_an_inspection_says_what_would_run() -> None:
    text = printed(EVIL)
    assert text.startswith("DANGEROUS: opening it with ordinary tools would do harm.")
    assert "evil\\x1b[2J.pth: a pickle, 1,234 bytes" in text
    assert "high: would call os.system('true') (data.pkl)" in text and "low: a sentence" in text
    assert "2 tensors (1 float32, 1 int64) with 641 values" in text
    harmless = dataclasses.replace(EVIL, would_run=(), dangerous=False)
    assert printed(harmless).startswith("SAFE TO READ: ")
    assert printed(dataclasses.replace(harmless, format="unknown")).startswith("NOT LOOKED INTO: ")


def test_tensors_are_listed_when_they_are_asked_for() -> None:
    assert "10×64" not in printed(EVIL)
    text = printed(EVIL, tensors=True)
    assert "fc\\x1b[31m.weight" in text and "10×64" in text and "one value" in text and "[red]n" in text


def test_of_many_findings_the_first_are_shown_and_the_others_counted() -> None:
    text = printed(dataclasses.replace(EVIL, findings=(Finding("low", "a sentence"),) * (LISTED + 7)))
    assert text.count("a sentence") == LISTED - 1 and "and 8 more" in text
    assert text.index("high: ") < text.index("low: ")
