"""What the members of a zip archive would do, archives inside it included, within limits of memory."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, cast

from detrigger.files.judge import Severity, WouldRun, judged
from detrigger.files.machine import UNKNOWN, Machine, Unreadable
from detrigger.files.zips import Damaged, misplaced, opened, read

LIMIT = 64 << 20
"""Bytes read of one pickle or nested archive."""
_PEEK = 64 << 10
"""Bytes read of a member that does not look like a pickle."""
_BUDGET = 512 << 20
"""Bytes unpacked of one file in all."""
_JSON = 16 << 20
"""Bytes read of a JSON member."""
_TAR_MEMBERS = 10_000
_TAR_PICKLES = ("pickle", "storages", "tensors", "sys_info")
_DEPTH = 3
"""Archives within archives."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a file."""

    severity: Severity
    sentence: str


@dataclass(frozen=True)
class Contents:
    """What was seen in a file."""

    would_run: tuple[WouldRun, ...] = ()
    """Besides what plain tensors need."""
    findings: tuple[Finding, ...] = ()


_LAMBDA = Finding("medium", "it has a Lambda layer: Keras would run the code that is in it")
_LAMBDA_TEXT = re.compile(rb'"class_name": *"(Lambda|__lambda__)"')


def in_pickle(data: bytes, *, at_most: int = 1000) -> Contents:
    """Of up to `at_most` pickles that follow each other."""
    machine, stream, findings = Machine(), io.BytesIO(data), list[Finding]()
    problem = _read(machine, stream, len(data), at_most)
    if problem:
        findings.append(_unreadable("the pickle", problem))
    return Contents(judged(machine.uses), tuple(findings))


def in_archive(file: io.BufferedIOBase) -> Contents:
    """Of all members of an archive."""
    looker = _Looker()
    looker.archive(file, "", _DEPTH)
    return Contents(tuple(dict.fromkeys(looker.would_run)), tuple(dict.fromkeys(looker.findings)))


def in_array(data: bytes, name: str = "") -> Contents:
    """Of a NumPy array: one of Python objects is a pickle behind its header."""
    start = 10 + int.from_bytes(data[8:10], "little")
    if b"O" not in data[10:start].partition(b"'descr': ")[2].partition(b",")[0]:
        return Contents()
    inside = in_pickle(data[start:])
    told = f"member {name}" if name else "it"
    finding = Finding("high", f"{told} is an array of Python objects, which is a pickle")
    return Contents(inside.would_run, (finding, *inside.findings))


def in_tar(file: io.BufferedIOBase) -> Contents:
    """Of the pickles of a tar archive, as PyTorch wrote them before 0.4; others may hold them too."""
    machine, found, findings = Machine(), list[WouldRun](), list[Finding]()
    try:
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as archive:
            for member in itertools.islice(archive, _TAR_MEMBERS):
                named = member.name in _TAR_PICKLES or member.name.endswith((".pkl", ".pickle"))
                inside = archive.extractfile(member) if named and member.isfile() else None
                if inside is None:
                    continue
                machine.uses.clear()
                problem = _read(machine, io.BytesIO(inside.read(LIMIT)), LIMIT, 1)
                found += judged(machine.uses, member.name)
                if problem:
                    findings.append(_unreadable(f"pickle {member.name}", problem))
    except (tarfile.TarError, OSError, EOFError, ValueError, LookupError) as error:
        findings.append(Finding("low", f"the archive is damaged ({' '.join(str(error).split())[:100]})"))
    return Contents(tuple(found), tuple(findings))


def in_hdf5(data: bytes) -> Contents:
    """Of a Keras 2 model: it can hold code, as text in its list of layers."""
    return Contents((), (_LAMBDA,) if _LAMBDA_TEXT.search(data) else ())


def hidden(file: io.BufferedIOBase) -> tuple[WouldRun, ...]:
    """What a file of another format would do if it were opened as a pickle: nothing, if it is honest."""
    machine, head = Machine(), io.BytesIO(file.read(_PEEK))
    problem = _read(machine, head, _PEEK, 1)
    if problem and head.tell() >= _PEEK:  # it went on beyond that
        file.seek(0)
        machine = Machine()
        _read(machine, io.BytesIO(file.read(LIMIT)), LIMIT, 1)
    found = judged(machine.uses)
    return found if any(run.how != "import" for run in found) else ()


def _read(machine: Machine, stream: io.BytesIO, size: int, at_most: int) -> str:
    """Why not all of them could be read; empty if they were."""
    for count in range(at_most):
        if count and stream.tell() >= size:
            break
        try:
            machine.read(stream)
        except Unreadable as error:
            return str(error)
    return ""


def _unreadable(what: str, problem: str) -> Finding:
    return Finding("high", f"{what} cannot be read to its end, so what it would do is not known: {problem}")


@dataclass
class _Looker:
    """What has been seen so far; lives for one call of `in_archive`."""

    would_run: list[WouldRun] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    budget: int = _BUDGET
    machine: Machine = field(default_factory=Machine)

    def high(self, sentence: str) -> None:
        self.findings.append(Finding("high", sentence))

    def archive(self, file: io.BufferedIOBase, prefix: str, depth: int) -> None:
        where = prefix.rstrip("/") or "itself"
        try:
            with opened(file) as archive:
                members = archive.infolist()
                if misplaced(file, archive):
                    self.high(
                        f"the archive {where} has bytes in front of it: readers may see different members"
                    )
                self._names([m.filename for m in members], prefix)
                for member in members:
                    if self.budget and self.machine.left > 0 and not member.is_dir():
                        self._member(archive, member, prefix, depth)
        except Damaged as error:
            self.high(f"the archive {where} is damaged and cannot be looked through: {error}")

    def _names(self, listed: list[str], prefix: str) -> None:
        for name in listed:
            if re.match(r"([A-Za-z]:)?[/\\]", name) or ".." in re.split(r"[/\\]", name):
                self.high(f"member {prefix}{name!r} would be unpacked outside its folder")
            if name.lower().endswith((".so", ".dll", ".dylib", ".o", ".exe")):
                self.high(f"member {prefix}{name} is compiled code")
        for name, count in Counter(name.lower() for name in listed).items():
            if count > 1:
                self.high(f"{count} members are called {prefix}{name}: readers may see different ones")

    def _member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, prefix: str, depth: int) -> None:
        name = prefix + member.filename
        pickled, is_json = name.endswith((".pkl", ".pickle")), name.endswith(".json")
        try:
            data = self._counted(read(archive, member, min(_PEEK, self.budget)), name)
            nested, array = data.startswith(b"PK\x03\x04"), data.startswith(b"\x93NUMPY")
            looks = pickled or (data[:1] == b"\x80" and data[1:2] <= b"\x05")
            if len(data) == _PEEK and (nested or looks or array or is_json):
                limit = _JSON if is_json else LIMIT
                data = self._counted(read(archive, member, min(limit, self.budget)), name, limit)
        except Damaged as error:
            self.high(f"member {name} cannot be read ({error}), though other readers might")
            return
        if nested and depth > 1:
            self.archive(io.BytesIO(data), f"{name}/", depth - 1)
        elif nested:
            self.high(f"member {name} is an archive too deep to look into")
        elif array:
            inside = in_array(data, name)
            self.findings += inside.findings
            self.would_run += inside.would_run
        elif is_json:
            self._json(data, name)
        else:
            self._pickle(data, name, certain=pickled)

    def _counted(self, data: bytes, name: str, limit: int = LIMIT) -> bytes:
        self.budget = max(0, self.budget - len(data))
        if len(data) == limit or self.budget == 0:
            self.high(f"member {name} is too large to be looked through")
        return data

    def _pickle(self, data: bytes, name: str, *, certain: bool) -> None:
        self.machine.uses.clear()
        problem = _read(self.machine, io.BytesIO(data), len(data), 1000)
        if problem and (certain or self.machine.left <= 0):
            self.findings.append(_unreadable(f"pickle {name}", problem))
        # Other members are tensors or text: only what could be imported counts as a hit there.
        self.would_run += [
            run
            for run in judged(self.machine.uses, name)
            if certain or run.name == str(UNKNOWN) or re.fullmatch(r"[\w.]+", run.name)
        ]

    def _json(self, data: bytes, name: str) -> None:
        keys: list[str] = []

        def remember(pairs: list[tuple[str, object]]) -> None:
            keys.extend(key for key, value in pairs if key == "use_pickle" and value)
            if ("class_name", "Lambda") in pairs or ("class_name", "__lambda__") in pairs:
                self.findings.append(_LAMBDA)

        try:
            json.loads(data, object_pairs_hook=remember)
        except (ValueError, RecursionError):
            self.findings.append(Finding("low", f"member {name} is not valid JSON"))
        if keys:
            self.high(f"{name} asks for {len(keys)} weights to be unpickled when the model is opened")
