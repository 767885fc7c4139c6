"""No pickle is run, whatever it does to be; and what it would do is called harmful."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path

import pytest

from detrigger.errors import ModelError
from detrigger.files.archive import in_pickle
from detrigger.files.inspect import inspect_file
from detrigger.files.judge import WouldRun
from detrigger.files.machine import Machine, Unreadable
from detrigger.load import read_tensors
from hostile import Payload, archive
from hostile.pickled import LIVE, NAMES, STILL, STOP, called, name, open_for_real, text


def high(found: tuple[WouldRun, ...]) -> list[str]:
    return [run.name for run in found if run.severity == "high"]


@pytest.mark.parametrize("case", LIVE)
def test_a_payload_that_works_is_called_harmful_and_never_runs(case: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = LIVE[case](str(marker))
    open_for_real(data)
    assert marker.is_dir(), "the payload of this test does not work"
    marker.rmdir()
    assert high(in_pickle(data).would_run)
    for path, content in (
        (tmp_path / "model.pkl", data),
        (archive(tmp_path / "model.pth", {"m/data.pkl": data, "m/version": b"3\n"}), b""),
    ):
        if content:
            path.write_bytes(content)
        assert inspect_file(path).dangerous
        with pytest.raises(ModelError) as error:
            read_tensors(path)
        assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("case", STILL)
def test_what_cannot_be_shown_to_work_is_called_harmful_as_well(case: str) -> None:
    found = in_pickle(STILL[case])
    assert high(found.would_run) or any(finding.severity == "high" for finding in found.findings)


@pytest.mark.parametrize("full", NAMES)
def test_names_that_got_past_scanners_are_harmful_when_called(full: str) -> None:
    module, _, attribute = full.rpartition(".")
    assert high(in_pickle(called(name(module, attribute), text("x")) + STOP).would_run) == [full]


def test_odd_escapes_in_a_string_are_read_without_a_warning() -> None:
    data = rb"S'\{\x41'" + b"\n."
    with pytest.warns(DeprecationWarning):
        assert next(pickletools.genops(data))[1] == r"\{A"
    assert Machine().read(io.BytesIO(data)) == r"\{A"


def test_what_would_be_called_is_shown_with_its_arguments() -> None:
    (found,) = in_pickle(
        called(name("os", "system"), text("rm -rf /"), b"K\x05", b"N", b"]", b"N") + STOP
    ).would_run
    assert (found.name, found.how, found.arguments) == ("os.system", "call", "'rm -rf /', 5, None, ..., ...")
    (long,) = in_pickle(called(name("os", "system"), text("x" * 999)) + STOP).would_run
    assert len(long.arguments) < 80 and long.arguments.endswith("...")


@pytest.mark.parametrize(
    ("data", "severity"),
    [
        (name("torch.nn.modules.conv", "Conv2d") + b")\x81.", "low"),
        (name("timm.models.resnet", "ResNet") + b")\x81.", "low"),
        (name("timm.models._efficientnet_blocks", "SqueezeExcite") + b")\x81.", "low"),
        (called(name("timm.layers.format", "Format"), text("NCHW")) + STOP, "low"),
        (called(name("functools", "partial"), name("torch.nn.modules.conv", "Conv2d")) + STOP, "low"),
        (called(name("functools", "partial"), name("os", "system")) + STOP, "high"),
        (name("torch.utils.data.dataset", "Subset") + b")\x81.", "medium"),
        (called(name("argparse", "Namespace")) + STOP, "low"),
        (called(name("numpy._core.multiarray", "scalar"), text("x")) + STOP, "low"),
        (name("my.networks", "Net") + b")\x81.", "medium"),
        (name("__main__", "Net") + b")\x81.", "medium"),
        (name("my.networks", "swish") + STOP, "medium"),
        (name("my.networks", "Net.method") + b")\x81.", "high"),
        (name("timm.models.resnet", "os.system") + STOP, "high"),
        (name("torch.nn.modules.conv", "Conv2d") + b")\x81}" + text("forward") + text("x") + b"sb.", "low"),
    ],
)
def test_classes_of_networks_are_told_from_code_that_is_not_known(data: bytes, severity: str) -> None:
    (found,) = in_pickle(data).would_run
    assert found.severity == severity


def test_a_pickle_of_more_instructions_than_are_read_is_not_read() -> None:
    with pytest.raises(Unreadable, match="too many instructions"):
        Machine(left=100).read(io.BytesIO(b"N0" * 50 + b"N."))
    Machine(left=102).read(io.BytesIO(b"N0" * 50 + b"N."))


def test_payloads_of_python_objects_work(tmp_path: Path) -> None:
    open_for_real(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()
