"""A pickle read without being run.

A pickle is a program for a small machine with a stack and a memo. This machine goes through the same motions
and puts a description in the place of everything that the real one would import or call.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

How = Literal["import", "make", "call", "change"]


@dataclass(frozen=True, eq=False)
class Name:
    """A function or class that would be imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


UNKNOWN = Name("", "a name made at run time")
"""Stands for what cannot be read from the pickle."""


@dataclass(eq=False)
class Object:
    """What a call would have given back."""

    of: object
    """A Name, or whatever was called instead of one."""
    arguments: tuple[Any, ...] = ()
    state: list[object] = field(default_factory=list)
    """What BUILD would have handed to it, in order."""
    items: list[object] = field(default_factory=list)
    """What would have been appended to it."""
    pairs: list[tuple[object, object]] = field(default_factory=list)
    """What would have been set in it by key."""


@dataclass(eq=False)
class Mapping:
    """A dictionary. No real one, for its keys would have to be compared, which a pickle can make slow."""

    pairs: list[tuple[object, object]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Outside:
    """What is kept outside of the pickle, under an identifier: the values of a tensor."""

    identifier: object


@dataclass(frozen=True)
class Use:
    """One thing that would have been done with a name."""

    name: Name
    how: How
    """`make`: an object of it, without arguments. `call`: with them. `change`: its attributes, or the methods
    of an object of it."""
    arguments: tuple[object, ...] = ()


class Unreadable(Exception):
    """It ends too early, is no pickle, or is made to use up memory or time."""


@dataclass
class Machine:
    """Reads pickles, one after the other, and remembers what they would use."""

    left: int = 1_000_000
    """Instructions it may still read; counted down."""
    uses: list[Use] = field(default_factory=list)
    """What all pickles read so far would do."""
    outside: list[Outside] = field(default_factory=list)
    """What they refer to."""

    def read(self, stream: io.BytesIO) -> object:
        """What the next pickle in a stream describes; the stream stands behind it afterwards.

        Raises Unreadable; what it would have used until then is in `uses`.
        """
        run = _Run(self.uses, self.outside)
        try:
            with warnings.catch_warnings(action="ignore"):  # of odd escapes in the strings of a pickle
                for op, argument, _ in pickletools.genops(stream):
                    self.left -= 1
                    if self.left < 0:
                        raise Unreadable("it has too many instructions")
                    run.step(op.name, argument)
            return run.stack.pop()
        except (ValueError, IndexError, KeyError, OverflowError, AttributeError, TypeError) as error:
            raise Unreadable(f"it is damaged ({error})") from error


_MARK = object()


@dataclass
class _Run:
    """One pickle while it is read."""

    uses: list[Use]
    outside: list[Outside]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def step(self, op: str, argument: Any) -> None:
        if op in _CONSTANTS:
            self.stack.append(_CONSTANTS[op])
        elif op in _LITERALS:
            self.stack.append(argument)
        else:
            _STEPS[op](self, argument)

    def marked(self) -> list[Any]:
        """Everything above the topmost mark, taken off together with it."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def value(self) -> Any:
        """The topmost value, taken off."""
        value = self.stack.pop()
        if value is _MARK:
            raise Unreadable("it takes a mark for a value")
        return value

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise Unreadable("it takes a mark for a value")
        return self.stack[-1]

    def push_name(self, module: object, name: object) -> None:
        known = isinstance(module, str) and isinstance(name, str)
        found = Name(str(module), str(name)) if known else UNKNOWN
        self.use(found, "import")
        self.stack.append(found)

    def use(self, what: object, how: How, arguments: tuple[object, ...] = ()) -> None:
        self.uses.append(Use(what if isinstance(what, Name) else UNKNOWN, how, arguments))

    def call(self, what: object, arguments: object, how: How = "call") -> None:
        given = arguments if isinstance(arguments, tuple) else (arguments,)
        self.use(what, how, given)
        self.stack.append(Object(what, given))

    def receiver(self) -> Any:
        """What something is put into. A name among these would be changed for the whole program."""
        if isinstance(self.top(), Name):
            self.use(self.top(), "change")
        return self.top()

    def extend(self, values: list[object]) -> None:
        into = self.receiver()
        if isinstance(into, Object):
            into.items.extend(values)
        elif isinstance(into, list):
            into.extend(values)
        elif not isinstance(into, Name):
            raise Unreadable("it appends to what is no list")

    def set(self, values: list[object]) -> None:
        into = self.receiver()
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(into, Object | Mapping):
            into.pairs.extend(pairs)
        elif not isinstance(into, Name):
            raise Unreadable("it sets entries of what is no dictionary")


_CALLED = {"__setstate__", "append", "extend", "add"}
"""Attributes of an object that pickle calls if they are there."""
_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_NO_LITERALS = "GLOBAL INST PERSID GET BINGET LONG_BINGET EXT1 EXT2 EXT4"
_LITERALS = {
    op.name
    for op in pickletools.opcodes
    if op.arg and not op.stack_before and op.stack_after and op.name not in _NO_LITERALS.split()
}
Step = Callable[[_Run, Any], object]


def _steps() -> Iterator[tuple[str, Step]]:
    """Name of each other instruction, and what it does to the stack."""
    for nothing in ("PROTO", "FRAME", "STOP", "READONLY_BUFFER"):
        yield nothing, lambda run, _: None
    yield "POP", lambda run, _: run.stack.pop()
    yield "DUP", lambda run, _: run.stack.append(run.top())
    yield "POP_MARK", lambda run, _: run.marked()
    for empty in ("EMPTY_LIST", "EMPTY_SET"):
        yield empty, lambda run, _: run.stack.append([])
    yield "EMPTY_TUPLE", lambda run, _: run.stack.append(())
    yield "EMPTY_DICT", lambda run, _: run.stack.append(Mapping())
    for listed in ("LIST", "FROZENSET"):
        yield listed, lambda run, _: run.stack.append(run.marked())
    yield "TUPLE", lambda run, _: run.stack.append(tuple(run.marked()))
    yield "DICT", _dict
    yield "TUPLE1", lambda run, _: run.stack.append(_several(run, 1))
    yield "TUPLE2", lambda run, _: run.stack.append(_several(run, 2))
    yield "TUPLE3", lambda run, _: run.stack.append(_several(run, 3))
    yield "APPEND", lambda run, _: run.extend([run.value()])
    for extended in ("APPENDS", "ADDITEMS"):
        yield extended, lambda run, _: run.extend(run.marked())
    yield "SETITEM", lambda run, _: run.set(list(_several(run, 2)))
    yield "SETITEMS", lambda run, _: run.set(run.marked())
    for put in ("PUT", "BINPUT", "LONG_BINPUT"):
        yield put, lambda run, at: run.memo.__setitem__(int(at), run.top())
    yield "MEMOIZE", lambda run, _: run.memo.__setitem__(len(run.memo), run.top())
    for get in ("GET", "BINGET", "LONG_BINGET"):
        yield get, lambda run, at: run.stack.append(run.memo[int(at)])
    for extension in ("EXT1", "EXT2", "EXT4"):
        yield extension, lambda run, code: run.push_name("copyreg extension", str(code))
    yield "GLOBAL", lambda run, both: run.push_name(*both.split(" ", 1))
    yield "STACK_GLOBAL", lambda run, _: run.push_name(*_several(run, 2))
    yield "REDUCE", lambda run, _: run.call(*_several(run, 2))
    yield "INST", _inst
    yield "OBJ", _obj
    yield "NEWOBJ", _newobj
    yield "NEWOBJ_EX", _newobj_ex
    yield "BUILD", _build
    yield "PERSID", lambda run, text: run.stack.append(Outside(text))
    yield "BINPERSID", _outside
    yield "NEXT_BUFFER", lambda run, _: run.stack.append(Outside("buffer"))


def _several(run: _Run, count: int) -> tuple[Any, ...]:
    return tuple(run.value() for _ in range(count))[::-1]


def _dict(run: _Run, _: object) -> None:
    values = run.marked()
    run.stack.append(Mapping(list(zip(values[::2], values[1::2], strict=True))))


def _inst(run: _Run, both: str) -> None:
    arguments = tuple(run.marked())
    run.push_name(*both.split(" ", 1))
    run.call(run.stack.pop(), arguments)


def _obj(run: _Run, _: object) -> None:
    what, *arguments = run.marked()
    run.call(what, tuple(arguments))


def _newobj(run: _Run, _: object) -> None:
    what, arguments = _several(run, 2)
    run.call(what, arguments, "call" if arguments else "make")


def _newobj_ex(run: _Run, _: object) -> None:
    what, arguments, named = _several(run, 3)
    bare = not arguments and isinstance(named, Mapping) and not named.pairs
    run.call(what, arguments, "make" if bare else "call")


def _build(run: _Run, _: object) -> None:
    state = run.value()
    into = run.receiver()
    if isinstance(into, Object):
        into.state.append(state)
        if _gives_methods(state):
            run.use(into.of, "change")


def _gives_methods(state: object) -> bool:
    """Whether it sets attributes unknown or called by pickle; the second of a pair may set the class."""
    for number, part in enumerate(state if isinstance(state, tuple) else (state,)):
        for key, _ in part.pairs if isinstance(part, Mapping) else ():
            if not isinstance(key, str) or key in _CALLED or (number and key.startswith("__")):
                return True
    return False


def _outside(run: _Run, _: object) -> None:
    """A class of an old PyTorch checkpoint is kept outside together with its source."""
    identifier = run.value()
    kind = identifier[:2] if isinstance(identifier, tuple) else ()
    is_class = len(kind) == 2 and kind[0] == "module" and isinstance(kind[1], Name)
    if is_class:
        run.stack.append(kind[1])
    else:
        run.outside.append(Outside(identifier))
        run.stack.append(run.outside[-1])


_STEPS: dict[str, Step] = dict(_steps())
