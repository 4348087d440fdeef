"""Operators called on the parameters of modules, alone and in sequences, and past the dispatcher."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import fastvision
from fastvision._calls import PreparedCall, sequence
from fastvision._native import _C
from fastvision.nn import ConvReLUMaxPool2d, Linear

CONVOLVE = PreparedCall(torch.ops.fastvision.conv2d_pool2d.default, 3, padding=(1, 1), pool="none")
LINEAR = PreparedCall(torch.ops.fastvision.linear.default, 3, activation="relu")
FLATTEN = PreparedCall(torch.ops.aten.flatten.using_ints, 1, start_dim=1)
NAMES = ("weight", "bias")


class Layers(nn.Sequential):
    """A convolution and a dense layer by stock's calls, and the steps of a sequence that do the same."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5), nn.ReLU())
        self.by_python = 0

    def steps(self):
        def count(layer):
            def call(input):
                self.by_python += 1
                return torch.relu(layer(input))

            return call

        return (
            CONVOLVE.step(count(self[0]), (self[0], NAMES)),
            FLATTEN.step(lambda input: input.flatten(1)),
            LINEAR.step(count(self[3]), (self[3], NAMES)),
        )


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return Layers()


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def call(layers):
    """A function of a convolution and an input, and the arguments that it left to another."""
    left = []

    def otherwise(module, *inputs):
        left.append(inputs)
        return torch.relu(module(*inputs))

    return CONVOLVE.of_module(NAMES, {"padding": (1, 1)}, otherwise), left


def replace_weight(convolution):
    convolution.weight = nn.Parameter(torch.ones_like(convolution.weight))


PARAMETERS = {
    "as they were": lambda convolution: None,
    "values": lambda convolution: convolution.weight.data.mul_(2),
    "replaced": replace_weight,
    "no bias": lambda convolution: setattr(convolution, "bias", None),
    "equal option": lambda convolution: setattr(convolution, "padding", tuple([1, 1])),
}


@pytest.mark.parametrize("change", PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_are_read_at_each_call(call, layers, images, change):
    function, left = call
    function(layers[0], images)
    change(layers[0])
    assert_close(function(layers[0], images), torch.relu(layers[0](images)))
    assert left == []


def compute_weight(convolution):
    weight = convolution.weight.detach() * 2
    del convolution.weight
    convolution.weight = weight


LEFT_TO_OTHERS = {
    "option": lambda convolution: setattr(convolution, "padding", (0, 0)),
    "option of another type": lambda convolution: setattr(convolution, "padding", "same"),
    "computed parameter": compute_weight,
}


@pytest.mark.parametrize("change", LEFT_TO_OTHERS.values(), ids=LEFT_TO_OTHERS)
def test_a_changed_module_is_left_to_another_function(call, layers, images, change):
    function, left = call
    change(layers[0])
    assert_close(function(layers[0], images), torch.relu(layers[0](images)))
    assert len(left) == 1


class Subclass(torch.Tensor):
    pass


def test_arguments_that_are_no_plain_tensors_are_left_to_another_function(call, layers, images):
    function, left = call
    assert isinstance(function(layers[0], images.as_subclass(Subclass)), Subclass)
    for wrong in ((), (images, images), (3,)):
        with pytest.raises(TypeError):
            function(layers[0], *wrong)
    assert len(left) == 4
    with pytest.raises(AttributeError):  # no module at all
        function(3, images)


def test_a_comparison_that_fails_raises(call, layers, images):
    class Option:
        def __eq__(self, other):
            raise ValueError("incomparable")

    function, _ = call
    layers[0].__dict__["padding"] = Option()
    with pytest.raises(ValueError, match="incomparable"):
        function(layers[0], images)


def test_the_operator_itself_is_what_else_is_called(layers, images):
    function = CONVOLVE.of_module(NAMES)
    expected = function(layers[0], images)
    compute_weight(layers[0])
    layers[0].weight = layers[0].weight / 2
    assert_close(function(layers[0], images), expected)


def test_a_sequence_is_its_steps_one_after_the_other(layers, images):
    function = sequence(layers.steps())
    assert_close(function(images), layers(images))
    for change in (replace_weight, PARAMETERS["no bias"]):
        change(layers[0])
        assert_close(function(images), layers(images))
    assert layers.by_python == 0


def test_gradients_of_a_sequence(layers, images):
    grads = []
    for function in (sequence(layers.steps()), layers):
        leaf = images.clone().requires_grad_()
        grads.append(torch.autograd.grad(function(leaf).square().sum(), [leaf, *layers.parameters()]))
    assert_close(*grads)
    assert layers.by_python == 0


@pytest.mark.parametrize("position", [0, 3])
def test_a_sequence_with_a_computed_parameter_goes_by_python(layers, images, position):
    function = sequence(layers.steps())
    compute_weight(layers[position])
    assert_close(function(images), layers(images))
    assert layers.by_python == 2


def test_a_sequence_of_a_subclass_goes_by_python(layers, images):
    assert isinstance(sequence(layers.steps())(images.as_subclass(Subclass)), Subclass)
    assert layers.by_python == 2


def test_wrong_arguments_of_a_sequence(layers, images):
    function = sequence(layers.steps())
    with pytest.raises(TypeError):
        function()
    with pytest.raises(TypeError):
        function(images, images)
    with pytest.raises(RuntimeError, match="input: expected 3 channels"):
        function(images[:, :2])
    with pytest.raises(ValueError, match="steps: expected at least one"):
        sequence(())
    with pytest.raises(IndexError):  # more tensors than the operator has
        _C.prepare_sequence([(("aten::relu", ""), {}, [(layers[0], ("weight", "bias"))], False)], layers)


def test_a_sequence_keeps_no_module_alive():
    """Where a module refers to the sequence it is in, the collector sees the circle."""
    layers = Layers()
    layers[0].__dict__["whole"] = sequence(layers.steps())
    gone = weakref.ref(layers[0])
    del layers
    gc.collect()
    assert gone() is None


# ---- past the dispatcher

CALLS = {
    "convolution": (ConvReLUMaxPool2d(3, 4, 3).eval(), torch.randn(2, 3, 8, 8), "fastvision::conv2d_pool2d"),
    "linear": (Linear(6, 5).eval(), torch.randn(2, 6), "fastvision::linear"),
}
each_call = pytest.mark.parametrize(("module", "input", "name"), CALLS.values(), ids=CALLS)


@each_call
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_results_are_of_the_mode_they_are_made_in(module, input, name, mode):
    expected = module(input)
    with mode():
        result = module(input)
    assert_close(result, expected.detach())
    assert expected.requires_grad
    assert not result.requires_grad
    assert result.is_inference() == (mode is torch.inference_mode)


@each_call
def test_a_profiler_sees_the_operator(module, input, name):
    with torch.inference_mode(), torch.profiler.profile() as profile:
        module(input)
    assert name in {event.name for event in profile.events()}


@each_call
def test_autocast(module, input, name):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert module(input).dtype == torch.bfloat16


@each_call
def test_derivatives_without_grad_mode(module, input, name):
    """Forward mode needs none, and neither does torch.func."""
    parameters = {key: value.detach() for key, value in module.named_parameters()}

    def run(parameters):
        return torch.func.functional_call(module, parameters, input).sum()

    gradient = torch.func.grad(run)(parameters)
    ones = {key: torch.ones_like(value) for key, value in parameters.items()}
    with torch.no_grad():
        _, along = torch.func.jvp(run, (parameters,), (ones,))
    # Hundreds of terms of both signs, which the two add in different orders.
    assert_close(along, sum(value.sum() for value in gradient.values()), rtol=1e-4, atol=1e-4)


@each_call
def test_vmap(module, input, name):
    inputs = torch.stack([input, 2 * input])
    with torch.no_grad():
        assert_close(torch.func.vmap(module)(inputs), torch.stack([module(one) for one in inputs]))


@each_call
def test_tensors_on_the_meta_device(module, input, name):
    with torch.inference_mode(), torch.device("meta"):
        result = torch.func.functional_call(
            module, {key: value.to("meta") for key, value in module.named_parameters()}, input.to("meta")
        )
    assert result.is_meta
    assert result.shape == module(input).shape


def test_a_missing_tensor_is_refused(layers):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="Tensor"):
        CONVOLVE(None, layers[0].weight, None)


LATENTS = {
    "alike": (torch.randn(3, 4), torch.randn(3, 4)),
    "broadcast": (torch.randn(3, 4), torch.randn(4)),
    "promoted": (torch.randn(3, 4), torch.randn(3, 4).bfloat16()),
    "channels last": (torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn(2, 3, 4, 5)),
    "no kernel": (torch.randn(3, 4).double(), torch.randn(3, 4).double()),
    "no dimensions": (torch.randn(()), torch.randn(())),
    "empty": (torch.randn(0, 4), torch.randn(0, 4)),
}


@pytest.mark.parametrize(("mu", "logvar"), LATENTS.values(), ids=LATENTS)
@pytest.mark.parametrize("sample", [fastvision.ops.reparameterize, fastvision.ops.reparameterize_kl])
def test_noise_is_the_same_past_the_dispatcher(mu, logvar, sample):
    results = []
    for watch in (nullcontext, torch.profiler.profile):  # with a profiler the dispatcher has its way
        torch.manual_seed(4)
        with torch.no_grad(), watch():
            first, second = sample(mu, logvar), sample(mu, logvar)
        results.append((first, second))
        assert mu.numel() == 0 or not torch.equal(*map(z_of, (first, second)))
    assert_close(*results, rtol=0, atol=0)
    assert z_of(results[0][0]).stride() == z_of(results[1][0]).stride()


def z_of(result):
    return result[0] if isinstance(result, tuple) else result
