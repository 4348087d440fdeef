"""convert on convolutions behind which nothing can be fused, and the gradients that the operator leaves to stock."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from convert_models import OperatorCounter, fused_calls, native_sequences, seeded, training_step
from torch import nn
from torch.testing import assert_close

import fastvision
from fastvision.convert import convert, explain, revert
from fastvision.nn import Conv2d
from fastvision.ops import conv2d_pool2d

pytestmark = pytest.mark.usefixtures("one_thread")


class ConvLSTM(nn.Module):
    """Shi et al., "Convolutional LSTM Network", 2015: a convolution of all gates, and no layer behind it."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Conv2d(3 + 13, 4 * 13, 3, padding=1)

    def forward(self, film):
        hidden = cell = film.new_zeros(film.shape[0], 13, *film.shape[-2:])
        for frame in film.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, hidden], 1)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return hidden


class Block(nn.Module):
    """Norm and ReLU before the convolution, so that it is followed by nothing."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16)
        self.convolution = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, images):
        return self.convolution(F.relu(self.norm(images))) + images


CASES = {
    "a forward that can't be traced": (ConvLSTM, (2, 3, 3, 12, 12), 3),
    "a forward": (Block, (2, 16, 12, 12), 1),
    "a Sequential": (lambda: nn.Sequential(nn.Conv2d(16, 20, 3), nn.Sigmoid()), (2, 16, 12, 12), 1),
    "few outputs": (lambda: nn.Sequential(nn.Conv2d(5, 3, 5, padding=2), nn.Tanh()), (2, 5, 12, 12), 1),
    "small groups": (lambda: nn.Sequential(nn.Conv2d(8, 12, 1, groups=2), nn.ELU()), (2, 8, 12, 12), 1),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(8, 8, 7, groups=8), nn.GELU()), (2, 8, 12, 12), 1),
}


@pytest.mark.parametrize(("build", "shape", "calls"), CASES.values(), ids=CASES)
def test_a_convolution_alone_is_replaced(build, shape, calls):
    model, input = seeded(build), torch.randn(shape)
    converted = convert(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    for mode in (False, True):
        for module in (converted, model):
            module.train(mode)
        assert_close(*(training_step(module, input) for module in (converted, model)), rtol=1e-4, atol=1e-4)
        assert [fused_calls(module, input) for module in (converted, model)] == [calls, 0]
    for clone in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert fused_calls(clone, input) == calls
    rows = [row for row in explain(converted).rows if row.layers == ("Conv2d",)]
    assert [(row.status, row.reason) for row in rows] == [("replaced", "calls fastvision.ops.conv2d_pool2d")]
    revert(converted)
    for module, stock in zip(converted.modules(), model.modules(), strict=True):
        assert type(module) is type(stock)
        assert vars(module).keys() == vars(stock).keys()


OTHERS = {
    "few channels": (15, {}),
    "stride": (16, {"stride": 2}),
    "dilation": (16, {"dilation": 2}),
    "groups": (16, {"groups": 2}),
    "kernel": (16, {"kernel_size": (3, 5)}),
    "padding mode": (16, {"padding": 1, "padding_mode": "reflect"}),
    "few outputs of one pixel": (16, {"kernel_size": 1, "out_channels": 3}),
}


@pytest.mark.parametrize(("channels", "options"), OTHERS.values(), ids=OTHERS)
def test_convolutions_that_gain_nothing_alone_stay(channels, options):
    model = nn.ModuleList([nn.Conv2d(channels, **{"out_channels": 16, "kernel_size": 3, **options})])
    assert type(convert(model)[0]) is nn.Conv2d
    assert explain(model).count("replaceable") == 0


def test_a_convolution_with_hooks_or_parametrizations():
    model = nn.ModuleList([nn.Conv2d(16, 16, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3))])
    converted = convert(model)
    assert [type(layer) is Conv2d for layer in converted] == [True, False]
    converted[0].register_forward_hook(lambda module, arguments, output: output * 0)
    assert not converted[0](torch.randn(1, 16, 8, 8)).any()


def test_bits_of_weights_are_not_for_convolutions():
    converted = convert(nn.Sequential(nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 2)), weight_dtype=torch.int8)
    assert not hasattr(converted[0], "weight_dtype")
    assert converted[2].weight_dtype == torch.int8


def test_joins_the_operators_around_it():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 2))
    converted = convert(model).eval()
    input = torch.randn(1, 16, 4, 4)
    with torch.inference_mode(), native_sequences() as lengths:
        assert_close(converted(input), model(input))
    assert lengths == [3]
    converted[0].padding = (1, 1)  # the plan sees that it is another layer now
    with pytest.raises(RuntimeError):
        converted(input)


class SqueezeExcitation(nn.Module):
    """torchvision's: the second convolution is followed by nothing that is fused."""

    def __init__(self):
        super().__init__()
        self.avgpool, self.activation, self.scale_activation = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Hardsigmoid()
        self.fc1, self.fc2 = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)

    def forward(self, x):
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


def pooled_classifier():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Sigmoid())


@pytest.mark.parametrize("build", [SqueezeExcitation, pooled_classifier])
def test_a_pointwise_convolution_of_one_pixel(build):
    model, input = seeded(build), torch.randn(2, 32, 6, 6)
    converted = convert(model)
    with torch.inference_mode():
        assert_close(converted(input), model(input))
        assert fused_calls(converted, input) == 2
    assert_close(*(training_step(module, input) for module in (converted, model)), rtol=1e-4, atol=1e-4)
    last = converted.fc2 if build is SqueezeExcitation else converted[3]
    last.register_forward_hook(lambda module, arguments, output: output * 0)
    with torch.inference_mode():
        hooked = converted(input)
    assert torch.equal(hooked, torch.full_like(hooked, 0.5) * (input if build is SqueezeExcitation else 1))


def test_a_pointwise_convolution_of_more_pixels_is_stocks():
    model = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Sigmoid())
    converted = convert(model)
    with torch.inference_mode():
        for input in (torch.randn(2, 32, 6, 6), torch.randn(32, 6, 6), torch.randn(32, 1, 1)):
            assert fused_calls(converted, input) == 1
            assert_close(converted(input), model(input))


# Gradients of images behind which there is no pool: who computes those of input and weight.

TRAINED = {
    "Winograd": ((2, 16, 14, 14), (24, 16, 3, 3), 1, True),
    "few pixels, short sums": ((1, 16, 8, 8), (24, 16, 3, 3), 1, True),
    "1x1": ((2, 16, 14, 14), (24, 16, 1, 1), 0, False),
}


@pytest.mark.parametrize(("images", "weights", "padding", "ours"), TRAINED.values(), ids=TRAINED)
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_training_without_a_pool(images, weights, padding, ours, activation, memory_format):
    torch.manual_seed(4)
    input = torch.randn(images).to(memory_format=memory_format).requires_grad_()
    weight, bias = torch.randn(weights, requires_grad=True), torch.randn(weights[0], requires_grad=True)
    leaves = [input, weight, bias]
    with OperatorCounter() as counter:
        output = conv2d_pool2d(*leaves, padding=padding, activation=activation, pool="none")
    assert (torch.ops.fastvision.conv2d_pool2d_with_selection.default in counter.called) == ours
    grad = torch.randn_like(output)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = F.conv2d(*doubles, padding=padding)
    expected = expected.relu() if activation == "relu" else expected
    actual = torch.autograd.grad(output, leaves, grad)
    assert_close(actual, torch.autograd.grad(expected, doubles, grad.double()), rtol=1e-4, atol=1e-3, check_dtype=False)


def test_disabled_kernels_train_by_the_reference():
    model = convert(nn.Sequential(nn.Conv2d(16, 16, 3)))
    with fastvision.backends.enabled(False), OperatorCounter() as counter:
        model(torch.randn(1, 16, 8, 8))
    assert torch.ops.fastvision.conv2d_pool2d_with_selection.default not in counter.called
