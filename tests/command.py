"""The command line on a network made by hand: files for it, and ways to call it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from planted import Planted, planted

from detrigger.cli import run
from detrigger.images import Images
from detrigger.save import save_classifier, save_trigger

ARCH = f"{Path(__file__).parent / 'planted.py'}:make"
TARGET = 2
QUICK = ("--budget", "quick", "--precision", "fp32")
"""Enough for this network."""


@dataclass(frozen=True)
class Files:
    """A backdoored model, its clean twin, images of both, and the true trigger."""

    bad: Path
    clean: Path
    data: Path
    known: Path
    truth: Planted

    def on(self, model: Path | None = None, *more: str, data: Path | None = None) -> list[str]:
        """What a command needs to read the model (the backdoored one unless told) and the data."""
        backdoors = 0 if model == self.clean else 1
        words = [str(model or self.bad), "--data", str(data or self.data), "--arch", ARCH]
        return [*words, "--arch-kw", f"backdoors={backdoors}", *more]

    def scan(self, model: Path | None = None, *more: str, data: Path | None = None) -> list[str]:
        return ["scan", *self.on(model, *QUICK, *more, data=data)]

    def repair(self, out: Path, *more: str, model: Path | None = None) -> list[str]:
        return ["repair", *self.on(model, *QUICK, "--out", str(out), *more)]


def written(folder: Path) -> Files:
    """All files, in a folder."""
    truth, twin = planted(targets=(TARGET,)), planted(targets=())
    found = Files(
        folder / "bad.safetensors",
        folder / "clean.safetensors",
        folder / "images.npz",
        folder / "known.safetensors",
        truth,
    )
    save_classifier(truth.model, found.bad)
    save_classifier(twin.model, found.clean)
    save_images(found.data, truth.images)
    save_trigger(truth.triggers[0], found.known, target=TARGET, family="patch")
    return found


def save_images(path: Path, images: Images) -> Path:
    np.savez(path, x=(images.x * 255).round().byte().numpy(), y=images.y.numpy())
    return path


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], words: list[str]) -> Said:
    """The command line in this process."""
    capsys.readouterr()
    code = run(words)
    caught = capsys.readouterr()
    return Said(code, caught.out, caught.err)


def refused(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 2) -> str:
    """The one line on stderr with which a command line is refused."""
    said = call(capsys, words)
    assert (said.code, said.out) == (code, ""), said
    assert said.err.startswith("detrigger: ") and said.err.count("\n") == 1
    line = said.err.removesuffix("\n")
    assert line.isprintable(), line
    return line.removeprefix("detrigger: ")


def environment(**more: str) -> dict[str, str]:
    quiet = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONIOENCODING", "PYTHONUTF8", "FORCE_COLOR")
    }
    return quiet | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"} | more


def process(words: list[str], **more: str) -> Said:
    """The command line as a process of its own; `more` are environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "detrigger", *words], capture_output=True, env=environment(**more), timeout=100
    )
    encoding = more.get("PYTHONIOENCODING", "utf-8")
    return Said(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with its checksum."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
