"""Kills scans at random points and resumes them: python kill.py [TIMES] [SEED]

Every scan is a process of its own with an --out of its own, ended by SIGKILL after a random share of the
time that a whole scan takes. One that was done before does not count, and is tried again with another share.
Whatever is then in the folder, `scan --resume` must bring it to the result of a scan that was left alone, and
leave nothing else behind. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from command import written

from detrigger.cli import run
from detrigger.cli.results import KEPT, NEW

UNSTABLE = ("cost", "tool")
"""Parts of a report that tell how long it took."""


def started(words: list[str]) -> int:
    """A command in a child that shares what is imported already; its number."""
    child = os.fork()
    if child:
        return child
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        code = run(words)
    os._exit(code)


def finished(child: int) -> int:
    """The exit code of a child; negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(folder: Path) -> tuple[object, list[str]]:
    """What a scan found, and the files it left."""
    report = json.loads((folder / "report.json").read_text())
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    triggers = [(folder / b["trigger"]).read_bytes() for b in report["backdoors"]]
    return [{k: v for k, v in report.items() if k not in UNSTABLE}, triggers], files


def timed(words: list[str]) -> tuple[int, float]:
    """The exit code of a command, and its seconds."""
    began = time.monotonic()
    return finished(started(words)), time.monotonic() - began


def state(out: Path) -> str:
    """How far a killed scan had come."""
    if (out / NEW).exists():
        return "the report was being written"
    if (out / "report.json").exists():
        return "the report was there"
    kept = len(list((out / KEPT).glob("*.safetensors"))) if (out / KEPT).exists() else 0
    return "some classes were kept" if kept else "nothing yet"


def main(times: int, seed: int) -> None:
    """Kill, look, resume, compare."""
    draw, seen = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        files = written(Path(place))
        words = [*files.on(), "--budget", "quick", "--precision", "fp32", "--out"]
        run(["scan", *words, f"{place}/first"])  # so that every child has it warm
        wholes = [timed(["scan", *words, f"{place}/whole-{i}"]) for i in range(5)]
        code, whole = wholes[0][0], sorted(seconds for _, seconds in wholes)[2]
        wanted = result(Path(place, "whole-0"))
        number = 0
        while seen["killed"] < times:
            number += 1
            out = Path(place, str(number))
            child = started(["scan", *words, str(out)])
            time.sleep(draw.uniform(0, whole))
            os.kill(child, signal.SIGKILL)
            if finished(child) >= 0:
                seen["was done before, not counted"] += 1
                continue
            seen["killed"] += 1
            seen[state(out)] += 1
            again = finished(started(["scan", *words, str(out), "--resume"]))
            seen["same result" if again == code and result(out) == wanted else "OTHER RESULT"] += 1
            sys.stderr.write(f"{number} {dict(seen)}\n")
    print(json.dumps({"seed": seed, "seconds_of_a_scan": round(whole, 2), **seen}))


main(*map(int, [*sys.argv[1:], "100", "0"][:2]))
