"""The classifier: frozen, honest about shapes, open to a look inside."""

from __future__ import annotations

import pytest
import torch
from planted import PENULTIMATE, planted
from torch import Tensor, nn

from detrigger.errors import ModelError, UsageError
from detrigger.model import (
    Classifier,
    Preprocessing,
    forward,
    layers,
    penultimate,
    pooled,
    recorded,
)


class Tokens(nn.Module):
    """Like a small transformer: n × positions × features inside, and one layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.unused = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(7, 7)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.mix(self.embed(x[:, 0])).mean(1))
        return out


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def classifier(net: nn.Module | None = None, **options: object) -> Classifier:
    return Classifier(net or convolutions(), ("a", "b", "c"), (2, 6, 6), **options)  # type: ignore[arg-type]


def some(n: int = 4) -> Tensor:
    return torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def test_weights_of_any_number_of_axes_are_taken() -> None:
    net = convolutions()
    net.register_parameter("bias_of_windows", nn.Parameter(torch.rand(1, 1, 2, 3, 3)))
    model = classifier(net)
    assert model.net.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(some()), net.eval()(some()))


def test_grey_images_and_their_weights_are_strided_as_channels_last() -> None:
    """One channel is channels last however it is strided, but only these strides choose the fast kernels."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(net, ("a", "b", "c"), (1, 6, 6))
    seen = []
    model.net.register_forward_pre_hook(lambda _, given: seen.append(given[0].stride()))
    model(torch.rand(2, 1, 6, 6))
    assert seen == [(36, 1, 6, 1)] and model.net.get_parameter("0.weight").stride() == (9, 1, 3, 1)


def test_the_given_network_is_left_as_it_was_and_later_changes_to_it_do_not_matter() -> None:
    net = convolutions()
    model = classifier(net)
    before = model(some())
    assert net.training and all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        net[0].weight.zero_()  # type: ignore[operator,union-attr]
    assert torch.equal(model(some()), before)


def test_weights_are_frozen_and_in_eval_mode_but_gradients_reach_the_images() -> None:
    model = classifier()
    x = some().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    assert not model.net.training and not any(p.requires_grad for p in model.net.parameters())


def test_preprocessing_is_done_inside() -> None:
    mean, std = torch.tensor([0.4, 0.6]).reshape(2, 1, 1), torch.tensor([0.2, 0.5]).reshape(2, 1, 1)
    with_it = classifier(preprocessing=Preprocessing((0.4, 0.6), (0.2, 0.5)))
    assert torch.allclose(with_it(some()), classifier()((some() - mean) / std), atol=1e-5)
    one_for_all = classifier(preprocessing=Preprocessing((0.4,), (0.2,)))
    assert torch.allclose(one_for_all(some()), classifier()((some() - 0.4) / 0.2), atol=1e-5)


def test_probabilities_become_logits_with_the_same_softmax() -> None:
    net = nn.Sequential(convolutions(), nn.Softmax(1))
    logits = classifier(net, probabilities=True)(some())
    assert torch.allclose(logits.softmax(1), classifier(net)(some()), atol=1e-6)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 2, 2)])
def test_images_the_network_fails_on_are_one_line_of_advice(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="×".join(map(str, shape)) + ".*check --size") as caught:
        classifier()(torch.rand(1, *shape))
    assert "\n" not in str(caught.value)


def test_another_number_of_outputs_than_classes_is_refused() -> None:
    model = Classifier(convolutions(), ("a", "b"), (2, 6, 6))
    with pytest.raises(ModelError, match="returned 4×3, wanted one logit per class, 4×2"):
        model(some())
    with pytest.raises(ModelError, match="wanted one logit per class"):
        classifier(nn.Identity())(some())


def test_forward_runs_another_network_in_the_models_convention() -> None:
    model = classifier(preprocessing=Preprocessing((0.5,), (0.25,)))
    assert torch.equal(forward(model, model.net, some()), model(some()))


def test_layers_are_in_order_without_convolutions_that_feed_a_batch_norm_and_end_before_the_head() -> None:
    assert layers(classifier()) == ("1", "3", "8:in")
    assert penultimate(classifier()) == "8:in"
    assert layers(planted(norm=True).model) == ("norm", "conv2", PENULTIMATE)
    assert layers(planted(norm=False).model) == ("conv1", "conv2", PENULTIMATE)
    tokens = Classifier(Tokens(), ("a", "b", "c"), (1, 3, 4))
    assert layers(tokens) == ("embed", "mix", "head:in")


def test_a_network_without_layers_to_look_into_is_refused() -> None:
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        layers(Classifier(nn.Flatten(), ("a", "b"), (1, 1, 2)))


def test_activations_are_means_over_positions_one_column_per_neuron() -> None:
    model = classifier()
    inside = model.net[:4](some())  # type: ignore[index]
    assert torch.allclose(model.activations(some(), "3"), inside.mean((2, 3)), atol=1e-6)
    assert torch.allclose(model.activations(some(), "8:in"), inside.relu().mean((2, 3)), atol=1e-6)
    assert torch.equal(model.activations(some(), "8"), model(some()))


def test_activations_of_tokens_are_means_over_the_tokens() -> None:
    model = Classifier(Tokens(), ("a", "b", "c"), (1, 3, 4))
    x = torch.rand(2, 1, 3, 4)
    inside = model.net.get_submodule("embed")(x[:, 0])
    assert torch.allclose(model.activations(x, "embed"), inside.mean(1), atol=1e-6)


def test_pooled_takes_features_first_or_last() -> None:
    x = torch.rand(2, 3, 4, 5)
    assert torch.allclose(pooled(x, channels_last=False), x.mean((2, 3)))
    assert torch.allclose(pooled(x, channels_last=True), x.mean((1, 2)))
    assert torch.equal(pooled(x[:, :, 0, 0], channels_last=True), x[:, :, 0, 0])


def test_a_layer_that_is_not_there_or_does_not_run_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no layer 'nowhere'.*8"):
        classifier().activations(some(), "nowhere")
    tokens = Classifier(Tokens(), ("a", "b", "c"), (1, 3, 4))
    with pytest.raises(UsageError, match=r"'unused' did not run; choose one of embed, mix, head:in"):
        tokens.activations(torch.rand(2, 1, 3, 4), "unused")


def test_recording_ends_with_its_block() -> None:
    model = classifier()
    with recorded(model.net, "3") as seen:
        model(some())
    model(some())
    assert len(seen) == 1 and seen[0].shape == (4, 5, 4, 4)


def test_the_device_is_that_of_the_weights_and_the_cpu_without_any() -> None:
    assert classifier(convolutions().to("meta")).device == torch.device("meta")
    assert Classifier(nn.Flatten(), ("a", "b"), (1, 1, 2)).device == torch.device("cpu")
