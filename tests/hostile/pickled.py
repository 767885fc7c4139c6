"""Pickles that would do harm: most make a folder `marker` when they are opened for real."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

STOP = b"."
BOMB = 40
"""Doublings: a value that is built in as many instructions has 2 to this many parts."""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def name(module: str, attribute: str) -> bytes:
    """Import by the instruction of protocol 4, which takes its strings from the stack."""
    return text(module) + text(attribute) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


MKDIR = name("os", "mkdir")
OLD = b"cos\nmkdir\n"


def _in_memo(marker: str) -> bytes:
    return text("mkdir") + b"\x94" + text("os") + b"\x9400" + b"h\x01h\x00\x93(" + text(marker) + b"tR."


def _memo_overwritten(marker: str) -> bytes:
    """The memo first holds a harmless name under the number that is fetched."""
    harmless = text("OrderedDict") + b"q\x050" + text("mkdir") + b"q\x050"
    return harmless + text("os") + b"h\x05\x93(" + text(marker) + b"tR."


def _own_setstate(marker: str) -> bytes:
    """An attribute becomes a method that the next BUILD calls."""
    made = b"cargparse\nNamespace\n)\x81"
    return made + b"}" + text("__setstate__") + OLD + b"sb" + text(marker) + b"b."


def _own_append(marker: str) -> bytes:
    """As above, with the method that APPEND calls, its name made at run time."""
    made = b"cargparse\nNamespace\n)\x81"
    key = called(name("_codecs", "encode"), text("nccraq"), text("rot13"))
    return made + b"}" + key + OLD + b"sb" + text(marker) + b"a."


def _rot13(marker: str) -> bytes:
    attribute = called(name("_codecs", "encode"), text("zxqve"), text("rot13"))
    return text("os") + attribute + b"\x93(" + text(marker) + b"tR."


def _code(marker: str) -> str:
    return f"__import__('os').mkdir({marker!r})"


def _script(marker: str) -> str:
    path = Path(f"{marker}.py")
    path.write_text(_code(marker))
    return str(path)


def _getattr(marker: str) -> bytes:
    module = called(name("importlib", "import_module"), text("os"))
    return called(called(name("builtins", "getattr"), module, text("mkdir")), text(marker)) + STOP


def _passed_on(marker: str) -> bytes:
    """A function on torch's own list of harmless ones calls what it is given."""
    rebuild = name("torch._tensor", "_rebuild_from_type_v2")
    return called(rebuild, MKDIR, name("torch", "Tensor"), b"(" + text(marker) + b"t", b"N") + STOP


def _inner(marker: str) -> bytes:
    data = called(MKDIR, text(marker)) + STOP
    return called(name("_pickle", "loads"), b"C" + bytes([len(data)]) + data) + STOP


def _keyed(marker: str) -> bytes:
    lazy = called(
        name("collections", "defaultdict"), called(name("functools", "partial"), MKDIR, text(marker))
    )
    return called(name("operator", "getitem"), lazy, text("x")) + STOP


LIVE: dict[str, Callable[[str], bytes]] = {
    "GLOBAL and REDUCE": lambda marker: called(OLD, text(marker)) + STOP,
    "GLOBAL of Python 2's name": lambda marker: (
        b"\x80\x02" + called(b"c__builtin__\neval\n", text(_code(marker))) + STOP
    ),
    "STACK_GLOBAL": lambda marker: called(MKDIR, text(marker)) + STOP,
    "STACK_GLOBAL, strings from the memo": _in_memo,
    "STACK_GLOBAL, memo overwritten": _memo_overwritten,
    "STACK_GLOBAL, name made at run time": _rot13,
    "STACK_GLOBAL, dots through another module": lambda marker: (
        b"\x80\x04" + called(name("torch.serialization", "os.mkdir"), text(marker)) + STOP
    ),
    "INST": lambda marker: b"(" + text(marker) + b"ios\nmkdir\n.",
    "OBJ": lambda marker: b"(" + OLD + text(marker) + b"o.",
    "BUILD of a method": _own_setstate,
    "BUILD of a method whose name is made at run time": _own_append,
    "a name taken twice": lambda marker: MKDIR + b"2(" + text(marker) + b"tR.",
    "eval": lambda marker: called(name("builtins", "eval"), text(_code(marker))) + STOP,
    "exec": lambda marker: called(name("builtins", "exec"), text(_code(marker))) + STOP,
    "getattr of an imported module": _getattr,
    "runpy": lambda marker: called(name("runpy", "run_path"), text(_script(marker))) + STOP,
    "timeit": lambda marker: (
        called(name("timeit", "timeit"), text(_code(marker)), text("pass"), name("time", "time"), b"K\x01")
        + STOP
    ),
    "os.system": lambda marker: called(name("os", "system"), text(f"mkdir {marker}")) + STOP,
    "map": lambda marker: (
        called(name("builtins", "list"), called(name("builtins", "map"), MKDIR, b"]" + text(marker) + b"a"))
        + STOP
    ),
    "called by a harmless function": _passed_on,
    "called for a missing key": _keyed,
    "a pickle in the pickle": _inner,
    "after 100 kB of bytes": lambda marker: (
        b"B" + (100_000).to_bytes(4, "little") + bytes(100_000) + b"0" + called(MKDIR, text(marker)) + STOP
    ),
    "with a frame of a wrong length": lambda marker: (
        b"\x80\x04\x95" + (5).to_bytes(8, "little") + b"NN00N" + called(MKDIR, text(marker)) + STOP
    ),
    "with rubbish behind it": lambda marker: called(MKDIR, text(marker)) + STOP + b"\xff\xfe rubbish",
    "without an end": lambda marker: called(MKDIR, text(marker)),
    "in letters alone": lambda marker: b"cos\nmkdir\n(V" + marker.encode() + b"\ntR.",
}
"""By what is special about them; each makes the folder when unpickled for real."""

STILL: dict[str, bytes] = {
    "NEWOBJ with arguments": b"csubprocess\nPopen\n" + text("true") + b"\x85\x81.",
    "NEWOBJ_EX": name("subprocess", "Popen") + text("true") + b"\x85}\x92.",
    "NEWOBJ_EX with keywords only": name("somewhere", "Net")
    + b")}"
    + text("command")
    + text("true")
    + b"s\x92.",
    "EXT": b"\x80\x02\x82\x05.",
    "BUILD of a class": name("torch.nn.modules.module", "Module")
    + b"N}"
    + text("__setstate__")
    + OLD
    + b"s\x86b.",
    "a call of what was called": called(called(name("torch.storage", "UntypedStorage"), b"K\x01")) + STOP,
    "a name out of a tuple": text("os") + b"\x85" + text("system") + b"\x93.",
    "a reconstructor": called(
        name("copyreg", "_reconstructor"), name("os", "PathLike"), name("builtins", "object"), b"N"
    )
    + STOP,
    "a function of a foreign package": called(name("somewhere", "run"), text("x")) + STOP,
    "a class of a known package, called": called(name("timm.models.resnet", "ResNet"), text("x")) + STOP,
    "a function in a known package": called(name("timm.models", "load_checkpoint"), text("x")) + STOP,
    "a name with a newline": text("os\nsystem") + text("x") + b"\x93)R.",
    "a name of half a character": b"X\x03\x00\x00\x00\xed\xa0\x80" + text("x") + b"\x93)R.",
}
"""Harmful, or unknown, but without a folder to show for it."""

NAMES = """
os.system posix.system nt.system subprocess.Popen subprocess.check_output pty.spawn shutil.rmtree
socket.socket ctypes.CDLL webbrowser.open importlib.import_module importlib.reload builtins.__import__
builtins.compile builtins.open builtins.getattr runpy.run_module runpy._run_code
code.InteractiveInterpreter pdb.run cProfile.run profile.run bdb.Bdb trace.Trace doctest.debug_script
pydoc.pipepager timeit.timeit asyncio.run operator.attrgetter operator.methodcaller
functools.reduce itertools.starmap types.FunctionType types.CodeType pickle.loads _pickle.load
marshal.loads shelve.open zipimport.zipimporter site.main ensurepip.bootstrap logging.config.listen
multiprocessing.Process threading.Thread tempfile.NamedTemporaryFile linecache.getline
urllib.request.urlopen ssl.get_server_certificate smtplib.SMTP sys.exit signal.alarm torch.load
torch.hub.load torch.hub.load_state_dict_from_url torch.jit.load
torch.jit.unsupported_tensor_ops.execWrapper torch.compile torch.utils.cpp_extension.load_inline
torch.storage._load_from_bytes torch.package.PackageImporter torch._C._jit_script_compile
torch.distributed.rpc.init_rpc torch.utils._config_module.load_config numpy.load
numpy.f2py.crackfortran.myeval numpy.testing._private.utils.runstring timm.create_model
timm.models._hub.load_state_dict_from_hf torchvision.datasets.utils.download_url pandas.read_pickle
joblib.load dill.loads cloudpickle.loads pip.main setuptools.sandbox.run_setup transformers.AutoModel
sympy.sympify yaml.unsafe_load idlelib.autocomplete.AutoComplete.get_entity
lib2to3.pgen2.grammar.Grammar.loads
""".split()  # noqa: SIM905
"""Some of those that have been used to get past scanners; called, each must count as harmful."""


def _nested(open_: bytes, close: bytes, depth: int) -> bytes:
    return open_ * depth + b"N" + close * depth + STOP


def _doubled(end: bytes) -> bytes:
    """A tuple of itself, time and again."""
    return b")" + b"2\x86" * BOMB + end + STOP


def _itself() -> bytes:
    """A module that holds itself."""
    fields = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}"
    inner = text("inner") + b"h\x00s"
    return b"ctorch.nn.modules.module\nModule\n)\x81q\x00" + fields + inner + b"ub."


def _modules_doubled() -> bytes:
    """Modules of modules that all share their two children."""
    data = b"N"
    for _ in range(BOMB):
        inner = (
            b"q\x010ctorch.nn.modules.module\nModule\n)\x81}(" + text("_parameters") + b"}" + text("_modules")
        )
        data += inner + b"}(" + text("a") + b"h\x01" + text("b") + b"h\x01uub"
    return data + STOP


BOMBS: dict[str, Callable[[], bytes]] = {
    "lists in lists": lambda: b"]" * 50_000 + b"a" * 49_999 + STOP,
    "tuples in tuples": lambda: _nested(b"(", b"t", 50_000),
    "a key that takes for ever to hash": lambda: b"}" + _doubled(b"Ns"),
    "an argument that takes for ever to print": lambda: (
        called(name("os", "mkdir"), _doubled(b"")[:-1]) + STOP
    ),
    "parameters in parameters": lambda: (
        b"}"
        + text("a")
        + b"".join([b"ctorch._utils\n_rebuild_parameter\nq\x000"] + [b"h\x00("] * 30_000)
        + b"N"
        + b"tR" * 30_000
        + b"s."
    ),
    "a number of a million digits": lambda: b"I" + b"9" * 1_000_000 + b"\n.",
    "a number of a million bytes": lambda: (
        b"\x8b" + (1_000_000).to_bytes(4, "little") + b"\x7f" * 1_000_000 + STOP
    ),
    "a length of bytes that are not there": lambda: b"\x8e" + (1 << 62).to_bytes(8, "little") + b"x",
    "a place in the memo far away": lambda: b"Nr\xff\xff\xff\x7f.",
    "a module that holds itself": _itself,
    "modules that share their children": _modules_doubled,
    "a mark for a value": lambda: b"(2\x85.",
    "nothing on the stack": lambda: b"0.",
    "an empty pickle": lambda: STOP,
}
"""Made to use up time or memory, or to break what reads them; none does harm."""


def open_for_real(data: bytes) -> None:
    """To show that a payload works. Whatever comes of it besides does not matter."""
    try:
        pickle.loads(data)  # noqa: S301
    except Exception:  # noqa: BLE001
        return
