"""What the pickles in a file would import and call if they were opened. They never are.

A pickle is a program for a small stack machine. It is read here instruction by instruction, following
strings through stack and memo, so that names put together at run time are found or called unknown.
Whatever cannot be read to its end counts as unsafe: a reader that is fooled must not say "safe".
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "a name made at run time"
"""Stands for a global whose name cannot be read from the pickle."""

_LIMIT = 64 << 20
"""Bytes read of one pickle or nested archive."""
_PEEK = 64 << 10
"""Bytes read of a member that does not look like a pickle."""
_BUDGET = 512 << 20
"""Bytes unpacked of one file in all."""
_DEPTH = 3
"""Archives within archives."""

_STRINGS = {op.name for op in pickletools.opcodes if "UNICODE" in op.name or op.name.endswith("STRING")}
_PLAIN = {
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("set", "complex", "bytearray")
    ),
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")),
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.bool",
}
_PLAIN_PATTERN = re.compile(
    r"torch\.((cuda\.)?[A-Z]\w*(Storage|Tensor)|u?int\d+|b?float\d+(_\w+)?|complex\d+)"
)
"""The part of torch's own weights_only list that makes plain tensors."""


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle would import."""

    name: str
    """With its module, as in `os.system`."""
    member: str = ""
    """File inside the archive that holds the pickle; empty if the file itself is one."""


@dataclass(frozen=True)
class Contents:
    """What was seen in a file."""

    would_run: tuple[Global, ...] = ()
    """Globals outside the plain-tensor list."""
    findings: tuple[str, ...] = ()
    """One sentence each."""
    unsafe: bool = False
    """Something besides `would_run` that can harm, or hide what does."""


def plain(name: str) -> bool:
    """Whether a global is one that plain tensors need."""
    return name in _PLAIN or _PLAIN_PATTERN.fullmatch(name) is not None


def names(data: bytes, *, at_most: int = 1000) -> tuple[tuple[str, ...], bool]:
    """Globals of up to `at_most` pickles that follow each other in `data`, each once, in order.

    Also whether all of them were read to their end.
    """
    stream, found = io.BytesIO(data), dict[str, None]()
    for count in range(at_most):
        if count and stream.tell() >= len(data):
            break
        try:
            for name in _walk(stream):
                found[name] = None
        except (ValueError, IndexError, OverflowError):
            return tuple(found), False
    return tuple(found), True


def _walk(stream: io.BytesIO) -> Iterator[str]:
    stack: list[object] = []
    memo: dict[int, object] = {}
    for op, arg, _ in pickletools.genops(stream):
        if op.name in _STRINGS:
            stack.append(arg)
        elif op.name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            known = isinstance(attribute, str) and isinstance(module, str)
            yield f"{module}.{attribute}" if known else UNKNOWN
            stack.append(None)
        elif op.name in {"PUT", "BINPUT", "LONG_BINPUT"}:
            memo[int(str(arg))] = stack[-1]
        elif op.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op.name in {"GET", "BINGET", "LONG_BINGET"}:
            stack.append(memo.get(int(str(arg))))
        elif op.name == "DUP":
            stack.append(stack[-1])
        else:
            if op.name in {"GLOBAL", "INST"}:
                yield str(arg).replace(" ", ".", 1)
            elif op.name.startswith("EXT"):
                yield f"copyreg extension {arg}"
            _apply(op, stack)


def _apply(op: pickletools.OpcodeInfo, stack: list[object]) -> None:
    """The effect of any other instruction on the stack: it takes and leaves values that are no names."""
    mark = pickletools.markobject
    takes = list(op.stack_before)
    if mark in takes:
        while stack.pop() is not mark:
            pass
        takes = takes[: takes.index(mark)]
    for _ in takes:
        stack.pop()
    stack.extend(mark if left is mark else None for left in op.stack_after)


def in_file(path: Path, *, at_most: int = 1000) -> Contents:
    """Of a file that is a pickle, or several: the first `at_most` are read."""
    with path.open("rb") as file:
        data = file.read(_LIMIT)
    found, whole = names(data, at_most=at_most)
    findings = () if whole else ("the pickle cannot be read to its end, so what it would do is not known",)
    return Contents(tuple(Global(name) for name in found if not plain(name)), findings, unsafe=not whole)


def in_archive(path: Path) -> Contents:
    """Of all members of a zip archive, archives inside it included, within limits of memory."""
    with path.open("rb") as file:
        looker = _Looker([], [], [], _BUDGET)
        looker.archive(file, "", _DEPTH)
    return Contents(
        tuple(dict.fromkeys(looker.would_run)),
        tuple(dict.fromkeys(looker.harmless + looker.harmful)),
        unsafe=bool(looker.harmful),
    )


@dataclass
class _Looker:
    """What has been seen so far; lives for one call of `in_archive`."""

    would_run: list[Global]
    harmless: list[str]
    harmful: list[str]
    budget: int

    def archive(self, file: io.BufferedIOBase, prefix: str, depth: int) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                self._names([m.filename for m in members], prefix)
                for member in members:
                    if self.budget and not member.is_dir():
                        self._member(archive, member, prefix, depth)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
            self.harmful.append(f"the archive {prefix or 'itself'} is damaged and cannot be looked through")

    def _names(self, listed: list[str], prefix: str) -> None:
        for name in listed:
            if re.match(r"([A-Za-z]:)?[/\\]", name) or ".." in re.split(r"[/\\]", name):
                self.harmful.append(f"member {prefix}{name!r} would be unpacked outside its folder")
            if name.lower().endswith((".so", ".dll", ".dylib")):
                self.harmful.append(f"member {prefix}{name} is compiled code")
        for name, count in Counter(name.lower() for name in listed).items():
            if count > 1:
                self.harmful.append(
                    f"{count} members are called {prefix}{name}: readers may see different ones"
                )
        code = [n for n in listed if n.partition("/")[2].startswith("code/") and n.endswith(".py")]
        if code:
            self.harmful.append(
                f"{len(code)} files of TorchScript code, which runs whenever the model is used"
            )

    def _member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, prefix: str, depth: int) -> None:
        name = prefix + member.filename
        try:
            with archive.open(member) as file:
                data = self._counted(file.read(min(_PEEK, self.budget)), name)
                nested = data.startswith(b"PK\x03\x04")
                named = name.endswith((".pkl", ".pickle")) or (data[:1] == b"\x80" and data[1:2] <= b"\x05")
                if nested or named or name.endswith(".json") or data.startswith(b"\x93NUMPY"):
                    data += self._counted(file.read(min(_LIMIT, self.budget)), name)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
            self.harmful.append(f"member {name} cannot be read ({error}), though other readers might")
            return
        if nested and depth > 1:
            self.archive(io.BytesIO(data), f"{name}/", depth - 1)
        elif nested:
            self.harmful.append(f"member {name} is an archive too deep to look into")
        elif name.endswith(".json"):
            self._json(data, name)
        else:
            self._pickle(data, name, certain=name.endswith((".pkl", ".pickle")))

    def _counted(self, data: bytes, name: str) -> bytes:
        self.budget -= len(data)
        if len(data) == _LIMIT or self.budget == 0:
            self.harmful.append(f"member {name} is too large to be looked through")
        return data

    def _pickle(self, data: bytes, name: str, *, certain: bool) -> None:
        if data.startswith(b"\x93NUMPY"):
            start = 10 + int.from_bytes(data[8:10], "little")
            if b"O" not in data[10:start].partition(b"'descr': ")[2].partition(b",")[0]:
                return
            self.harmful.append(f"member {name} is an array of Python objects, which is a pickle")
            data = data[start:]
        found, whole = names(data)
        unsafe = [Global(each, name) for each in found if not plain(each)]
        if certain and not whole:
            self.harmful.append(f"pickle {name} cannot be read to its end, so what it would do is not known")
        # Other members are tensors or text: only what could be imported counts as a hit there.
        self.would_run += [
            g for g in unsafe if certain or re.fullmatch(r"[\w.]+", g.name) or g.name == UNKNOWN
        ]

    def _json(self, data: bytes, name: str) -> None:
        keys: list[str] = []

        def remember(pairs: list[tuple[str, object]]) -> None:
            keys.extend(key for key, value in pairs if key == "use_pickle" and value)

        try:
            json.loads(data, object_pairs_hook=remember)
        except (ValueError, RecursionError):
            self.harmless.append(f"member {name} is not valid JSON")
        if keys:
            self.harmful.append(
                f"{name} asks for {len(keys)} weights to be unpickled when the model is opened"
            )
