"""The faster copy of a classifier gives the same logits, or is not used."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import planted
from torch import Tensor, nn
from torch.nn import functional

from detrigger import fast
from detrigger.fast import fastest, folded
from detrigger.model import Classifier

SHAPE = (3, 8, 8)


def trained_like(net: nn.Module) -> nn.Module:
    """BatchNorm statistics and weights other than one and zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
    return net


class Net(nn.Module):
    """Convolutions, BatchNorms and a head; how they are joined is for a function to say."""

    def __init__(self, joined: str) -> None:
        super().__init__()
        self.joined = joined
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(getattr(self, self.joined)(x).mean((2, 3)))

    def chain(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))

    def residual(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return (x + self.norm2(self.conv2(x))).relu()

    def unpaired(self, x: Tensor) -> Tensor:
        """A BatchNorm after an activation, which no convolution can take up."""
        return self.norm2(self.conv2(self.norm1(self.conv1(x).relu())))

    def one_norm_for_two(self, x: Tensor) -> Tensor:
        return self.norm1(self.conv2(self.norm1(self.conv1(x)).relu()))

    def one_convolution_for_two(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.norm1(x).relu() + self.norm2(x)

    def used_again(self, x: Tensor) -> Tensor:
        """The convolution's own output is needed too, which no hook can see."""
        x = self.conv1(x)
        return self.norm1(x).relu() + 2 * x

    def functional_reuse(self, x: Tensor) -> Tensor:
        again = functional.conv2d(x, self.conv1.weight, self.conv1.bias, padding=1)
        return self.norm1(self.conv1(x)) + again


def classifier(joined: str) -> Classifier:
    return Classifier(trained_like(Net(joined)), tuple("abcde"), SHAPE)


def norms(model: Classifier) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.net.modules())


@pytest.mark.parametrize(
    ("joined", "folds"),
    [
        ("chain", True),
        ("residual", True),
        ("unpaired", True),
        ("one_norm_for_two", False),
        ("one_convolution_for_two", False),
        ("used_again", False),
        ("functional_reuse", False),
    ],
)
def test_a_folded_network_gives_the_same_logits(joined: str, folds: bool) -> None:
    model = classifier(joined)
    before = copy.deepcopy(model.net.state_dict())
    quick = folded(model)
    x = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(7))
    expected = model(x)
    assert expected.std(0).min() > 0.01  # so that equality says something
    assert torch.allclose(quick(x), expected, rtol=1e-4, atol=1e-4)
    assert (quick is not model) == folds
    assert norms(quick) == (2 - 2 * folds if joined != "unpaired" else 1)
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_without_batchnorm_is_used_as_it_is() -> None:
    model = planted(norm=False).model
    assert folded(model) is model


def test_preprocessing_is_kept_when_folding() -> None:
    truth = planted()
    quick = folded(truth.model)
    assert norms(truth.model) == 1 and norms(quick) == 0
    assert quick.preprocessing == truth.model.preprocessing and quick.classes == truth.model.classes
    assert torch.allclose(quick(truth.images.x), truth.model(truth.images.x), atol=1e-4)


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"), [(1.0, 0.5, "bf16"), (1.0, 0.9, "fp32"), (1.0, 2.0, "fp32")]
)
def test_auto_takes_bf16_only_where_it_is_clearly_faster(
    fp32: float, bf16: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"fp32": fp32, "bf16": bf16}
    monkeypatch.setattr(fast, "_seconds", lambda model, x: seconds[model.precision])
    truth = planted()
    assert fastest(truth.model, truth.images.x[:8], "auto").precision == chosen
    assert truth.model.precision == "fp32"


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_taken_without_measuring(
    wanted: fast.Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "_seconds", lambda model, x: pytest.fail("measured"))
    truth = planted()
    quick = fastest(truth.model, truth.images.x[:8], wanted)
    assert quick.precision == wanted and norms(quick) == 0
    assert torch.equal(quick(truth.images.x).argmax(1), truth.images.y)


def test_measuring_takes_time_and_leaves_the_images_alone() -> None:
    truth = planted()
    x = truth.images.x[:8]
    assert fast._seconds(truth.model, x) > 0
    assert not x.requires_grad and x.grad is None
