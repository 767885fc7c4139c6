"""How dangerous it would be to let a pickle do what it asks for.

There is a list of what is harmless, and none of what is harmful: whatever is on no list counts as harmful.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from detrigger.files.machine import UNKNOWN, How, Name, Use

Severity = Literal["low", "medium", "high"]
"""`low`: good to know. `medium`: to open it with ordinary tools is to run code of a kind that is not known
here; weights can be taken from it all the same. `high`: it would do harm, or hides what it would do."""

_BUILTINS = ("builtins", "__builtin__")
_PLAIN = {
    "collections.OrderedDict",
    "collections.Counter",
    *(f"{module}.{name}" for module in _BUILTINS for name in ("set", "complex", "bytearray")),
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")),
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
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
    r"torch\.((cuda\.)?[A-Z]\w*(Storage|Tensor)|u?int\d+|b?float\d+(_\w+)?|complex\d+"
    r"|jit\._pickle\.(build_\w+list|restore_type_tag))"
)
"""What makes plain tensors of torch's own weights_only list, and lists of numbers in TorchScript archives."""

_PASSES_ON = "torch._tensor._rebuild_from_type_v2"
"""Calls its first argument."""
_RECONSTRUCTOR = ("copyreg._reconstructor", "copy_reg._reconstructor")
"""Makes an object of its first argument."""
_PARTIAL = "functools.partial"
"""Keeps its first argument to call it later, which no pickle can make it do without another name."""
_ENCODE = "_codecs.encode"
_ENCODINGS = {"latin1", "latin-1", "utf-8", "utf8", "ascii"}
"""Others, as rot13, put names together."""

_RECORDS = {
    "argparse.Namespace",
    "collections.defaultdict",
    "collections.deque",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta")),
    *(
        f"pathlib.{inner}{name}"
        for inner in ("", "_local.")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(
        f"{module}.{name}"
        for module in _BUILTINS
        for name in ("dict", "list", "int", "float", "str", "object")
    ),
    *(
        f"{module}.{name}"
        for module in _BUILTINS
        for name in ("tuple", "frozenset", "slice", "range", "bool")
    ),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{name}" for name in ("bool_", "float16", "float32", "float64", "int32", "int64", "uint8")),
    "timm.layers.format.Format",
    "torch.torch_version.TorchVersion",
    "types.SimpleNamespace",
}
"""Plain records of training scripts: to call them with any arguments does no harm."""

_CLASS = re.compile(
    r"(torch\.nn\.(modules|parallel|parameter|quantized)|torch\.optim|timm\.(models|layers|optim|scheduler)|"
    r"torchvision\.(models|ops))(\._?[a-z]\w*)*\.[A-Z]\w*"
)
"""Classes of networks, made without arguments and then filled."""
_FUNCTION = re.compile(
    r"torch\.nn\.functional\.\w+|torch\._C\._nn\.\w+|torch\.(relu|sigmoid|tanh|flatten|softmax)"
)
"""Functions on tensors that networks keep as attributes; named, not called."""

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_SHOWN = 60


@dataclass(frozen=True)
class WouldRun:
    """What a pickle would import, make or call."""

    name: str
    """With its module, as in `os.system`."""
    how: How = "import"
    """`make`: an object of it, without arguments. `change`: attributes of the class or function itself."""
    arguments: str = ""
    """Of a call, shortened."""
    severity: Severity = "high"
    member: str = ""
    """File inside the archive that holds the pickle; empty if the file itself is one."""


def judged(uses: Iterable[Use], member: str = "") -> tuple[WouldRun, ...]:
    """What is not needed for plain tensors, each once, and how bad it is; imports only if nothing follows."""
    found: dict[tuple[str, How, str], WouldRun] = {}
    for use in itertools.chain.from_iterable(map(_spread, uses)):
        severity = _severity(use)
        if severity:
            told = _arguments(use.arguments) if use.how == "call" else ""
            run = WouldRun(_text(str(use.name)), use.how, told, severity, member)
            found.setdefault((run.name, run.how, run.arguments), run)
    used = {name for name, how, _ in found if how != "import"}
    return tuple(run for run in found.values() if run.how != "import" or run.name not in used)


def _spread(use: Use) -> Iterable[Use]:
    """The use, and what it does with its arguments."""
    name, first = str(use.name), use.arguments[0] if use.arguments else None
    if use.how == "call" and name == _PASSES_ON:
        rest = use.arguments[2] if len(use.arguments) > 2 else ()
        return (Use(_named(first), "call", rest if isinstance(rest, tuple) else ()),)
    if use.how == "call" and name == _PARTIAL:
        return (Use(_named(first), "import"),)
    if use.how == "call" and name in _RECONSTRUCTOR:
        return (Use(_named(first), "make"),)
    return (use,)


def _named(value: object) -> Name:
    return value if isinstance(value, Name) else UNKNOWN


def _severity(use: Use) -> Severity | None:
    """None for what plain tensors need."""
    name = str(use.name)
    if use.how == "change" or use.name is UNKNOWN:
        return "high"
    if name == _ENCODE:
        encoding = str(use.arguments[1:2][0]) if len(use.arguments) == 2 else ""
        return None if use.how == "import" or encoding in _ENCODINGS else "high"
    if name in _PLAIN or _PLAIN_PATTERN.fullmatch(name):
        return None
    if use.how == "import" and name in (_PASSES_ON, _PARTIAL, *_RECONSTRUCTOR):
        return None
    if name in _RECORDS or (use.how != "call" and _CLASS.fullmatch(name)):
        return "low"
    if use.how == "import" and _FUNCTION.fullmatch(name):
        return "low"
    package = use.name.module.partition(".")[0]
    foreign = package not in sys.stdlib_module_names or package == "__main__"
    simple = _IDENTIFIER.fullmatch(use.name.name) and all(
        map(_IDENTIFIER.fullmatch, use.name.module.split("."))
    )
    return "medium" if foreign and simple and use.how != "call" else "high"


def _text(name: str) -> str:
    """Short, and of characters that can be written."""
    return name[:200].encode("utf-8", "backslashreplace").decode()


def _arguments(values: tuple[object, ...]) -> str:
    return ", ".join(_shown(value) for value in values[:4]) + (", ..." if len(values) > 4 else "")


def _shown(value: object) -> str:
    if isinstance(value, str | bytes | bytearray):
        short = value[:_SHOWN]
        return repr(bytes(short) if isinstance(short, bytearray) else short) + "..." * (len(value) > _SHOWN)
    if isinstance(value, bool | float | None):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 64 else "a large number"
    return _text(str(value)) if isinstance(value, Name) else "..."
