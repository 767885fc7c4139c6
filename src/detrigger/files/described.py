"""Tensors and their names, found in what a pickle describes: state dicts, checkpoints, whole modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from detrigger.files.machine import Mapping, Name, Object, Outside

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
)
"""Keys under which training scripts put the weights, in order of trial."""
_STORAGES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
"""Type of the values of a storage class."""
SIZES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float16": 2,
    "bfloat16": 2,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    **{f"{kind}{bits}": bits // 8 for kind in ("int", "uint", "float") for bits in (16, 32, 64)},
    **{f"float8_{kind}": 1 for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")},
}
"""Bytes of one value, by name of its type in PyTorch."""
_NESTED = 3
"""Wrappers within wrappers."""
_DEEP = 100
"""Modules within modules."""
_MANY = 100_000
"""Modules and tensors in all; shared ones are counted under each of their names."""
_DIMENSIONS = 128
_SHOWN = 6
_FIELDS = ("_parameters", "_buffers", "_modules")


class Undescribed(Exception):
    """No weights that can be used; the message follows "holds"."""


@dataclass(frozen=True)
class Stored:
    """A tensor as a file describes it: a view of stored values."""

    dtype: str
    """As PyTorch calls it."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In values."""
    offset: int
    """Of the first value, in values."""
    place: str
    """Name of the values in the file."""
    values: int
    """How many are stored there."""


@dataclass(frozen=True)
class Described:
    """The weights that a file describes."""

    tensors: dict[str, Stored]
    within: tuple[str, ...] = ()
    """Keys that lead to them."""
    notes: tuple[str, ...] = ()
    """What was unwrapped or left out, one sentence each."""


def weights(value: object) -> Described:
    """The weights in what a pickle describes. Raises Undescribed if there are none."""
    found = _search(value, ())
    if found is None:
        raise Undescribed(f"{_kind(value)}, wanted a state dict (names to tensors); save model.state_dict()")
    return found


def _search(value: object, within: tuple[str, ...]) -> Described | None:
    if is_module(value):
        what = "TorchScript" if isinstance(value, Object) and _is_script(value) else "whole pickled"
        note = f"it is a {what} module ({_class(value)}), of which the weights alone were taken"
        return Described(dict(_named(value)), within, (*_told(within), note))
    entries = _entries(value)
    if (state := _state(entries)) is not None:
        return Described(state, within, _told(within))
    for key in WRAPPERS if len(within) < _NESTED else ():
        found = _search(entries.get(key), (*within, key))
        if found is not None:
            others = [repr(k) for k in WRAPPERS if k != key and isinstance(entries.get(k), Mapping | Object)]
            also = (f"beside it there is {', '.join(others)}",) if others else ()
            return Described(found.tensors, found.within, (*found.notes, *also))
    return None


def _told(within: tuple[str, ...]) -> tuple[str, ...]:
    return (f"the weights were taken from its entry {'.'.join(within)!r}",) if within else ()


def _entries(value: object) -> dict[str, object]:
    """Of a dictionary, or of an object that is filled like one; those whose keys are texts."""
    pairs: list[tuple[object, object]] = []
    if isinstance(value, Object) and value.arguments and isinstance(value.arguments[0], list):
        listed = value.arguments[0]  # as in OrderedDict([(key, value), ...])
        pairs += [(p[0], p[1]) for p in listed if isinstance(p, tuple | list) and len(p) == 2]
    if isinstance(value, Object | Mapping):
        pairs += value.pairs
    return {key: inner for key, inner in pairs if isinstance(key, str)}


def _state(entries: dict[str, object]) -> dict[str, Stored] | None:
    """The tensors of a state dict; what modules keep beside them in it is left out."""
    own = {name: value for name, value in entries.items() if not name.endswith("_extra_state")}
    found = {name: tensor for name, value in own.items() if (tensor := tensor_of(value))}
    return found if found and len(found) == len(own) else None


def is_module(value: object) -> bool:
    """Whether it is a pickled torch.nn.Module, or a module of a TorchScript archive."""
    if not isinstance(value, Object):
        return False
    return _is_script(value) or {"_parameters", "_modules"} <= _attributes(value).keys()


def _is_script(value: Object) -> bool:
    return isinstance(value.of, Name) and value.of.module.startswith("__torch__")


def _class(value: object) -> str:
    return (
        str(value.of)[:200]
        if isinstance(value, Object) and isinstance(value.of, Name)
        else "of no known class"
    )


def _attributes(value: Object) -> dict[str, object]:
    """What BUILD would have given it, the last of each name."""
    parts = [part for state in value.state for part in (state if isinstance(state, tuple) else (state,))]
    return {k: v for part in parts if isinstance(part, Mapping) for k, v in part.pairs if isinstance(k, str)}


def _named(root: object) -> Iterator[tuple[str, Stored]]:
    """Tensors of a module and of those within it, named as its state dict would."""
    waiting, seen = [("", root, 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        if depth > _DEEP or seen > _MANY:
            raise Undescribed(
                "modules within each other without end, wanted those of a network; save it again"
            )
        tensors, inner = _members(module)
        seen += 1 + len(tensors) + len(inner)
        yield from ((prefix + name, tensor) for name, tensor in tensors)
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(inner)]


def _members(module: object) -> tuple[list[tuple[str, Stored]], list[tuple[str, object]]]:
    """The tensors and the modules that a module itself has."""
    given = _attributes(module) if isinstance(module, Object) else {}
    if isinstance(module, Object) and _is_script(module):
        held = list(given.items())
    else:
        fields = [_entries(given.get(field)) for field in _FIELDS]
        left_out = set(_texts(given.get("_non_persistent_buffers_set")))
        fields[1] = {name: value for name, value in fields[1].items() if name not in left_out}
        held = [pair for field in fields for pair in field.items()]
    tensors = [(name, tensor) for name, value in held if (tensor := tensor_of(value))]
    return tensors, [(name, value) for name, value in held if is_module(value)]


def _texts(value: object) -> Iterable[str]:
    """Of a set, which old protocols call with a list."""
    if isinstance(value, Object):
        value = value.arguments[0] if value.arguments else value.items
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else ()


def tensor_of(value: object) -> Stored | None:
    """The tensor that a value describes; None if it is none, or no plain one.

    Raises Undescribed for one that does not lie within what is stored for it.
    """
    name, given = "", tuple[object, ...]()
    while isinstance(value, Object) and isinstance(value.of, Name):
        name, given = str(value.of), value.arguments
        if name == _TYPED and len(given) > 2 and isinstance(given[2], tuple):
            value = Object(given[0], given[2])
        elif name in _HOLDERS and given:
            value = given[0]
        else:
            break
    if name not in _REBUILDERS or len(given) < 4:
        return None
    stored = storage(given[0])
    if stored is None:
        return None
    kind, place, values, start = stored
    if name.endswith("v3") and len(given) > 6 and isinstance(given[6], Name) and given[6].name in SIZES:
        values, kind = values * SIZES[kind] // SIZES[given[6].name], given[6].name
    return checked(kind, given[2], given[3], start, given[1], place, values)


_REBUILDERS = {f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")}
_HOLDERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
}
_TYPED = "torch._tensor._rebuild_from_type_v2"


def storage(value: object) -> tuple[str, str, int, int] | None:
    """Type, place, number of values and first value of what a tensor is a view of; None for anything else."""
    identifier = value.identifier if isinstance(value, Outside) else None
    if not isinstance(identifier, tuple) or len(identifier) < 5 or not isinstance(identifier[1], Name):
        return None
    _, kind, place, _, values, *view = identifier
    dtype = (
        "uint8"
        if kind.name == "UntypedStorage"
        else _STORAGES.get(kind.name.rpartition(".")[2].removesuffix("Storage"))
    )
    if dtype is None or not isinstance(place, str) or type(values) is not int:
        return None
    start = view[0][1] if view and isinstance(view[0], tuple) and len(view[0]) == 3 else 0
    return dtype, place, values, start


def checked(
    dtype: str, shape: object, strides: object, start: Any, offset: Any, place: str, values: int
) -> Stored:
    """A tensor that lies within its values. Raises Undescribed for any other."""
    lengths = (shape, strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else ((None,), ())
    numbers = [*lengths[0], *lengths[1], start, offset, values]
    if (
        len(lengths[0]) != len(lengths[1])
        or len(numbers) > _DIMENSIONS
        or not all(type(n) is int and 0 <= n < 2**62 for n in numbers)
    ):
        raise Undescribed("a tensor whose shape or strides are not whole numbers from 0; save it again")
    first = start + offset
    last = first + sum((n - 1) * step for n, step in zip(*lengths, strict=True))
    if all(lengths[0]) and last >= values:
        raise Undescribed(f"a tensor that needs {last + 1} values where {values} are stored; save it again")
    return Stored(dtype, lengths[0], lengths[1], first, place, values)


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        keys = [key[:40] if isinstance(key, str) else type(key).__name__ for key, _ in value.pairs[:_SHOWN]]
        return f"a mapping with keys {', '.join(keys) or '(none)'}"
    return _class(value) if isinstance(value, Object) else f"a {type(value).__name__}"
