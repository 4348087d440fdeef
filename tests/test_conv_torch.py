"""conv2d_pool2d among torch's other machinery: opcheck, compile, export, autocast, functional transforms, modes."""

import copy
import pickle

import pytest
import torch
from cases import SAMPLES, Problem, assert_same_layout, gradients, raw_options, stock, with_requires_grad
from functorch.compile import make_boxed_func
from torch._dynamo.testing import CompileCounterWithBackend

import fastvision
from fastvision.ops import conv2d_pool2d

OPS = torch.ops.fastvision
pytestmark = pytest.mark.usefixtures("one_thread")
by_sample = pytest.mark.parametrize("problem", SAMPLES.values(), ids=SAMPLES)
# For checks that take a second each: every kind of argument once.
FEW = ["channels_last", "same_lopsided", "average", "only_convolution", "no_bias", "unbatched", "bfloat16", "float64"]
ALL = (True, True, True)


class Block(torch.nn.Module):
    """A model whose convolution is the operator; `function` may be stock."""

    def __init__(self, problem: Problem, function=conv2d_pool2d) -> None:
        super().__init__()
        _, weight, bias = problem.tensors()
        self.weight = torch.nn.Parameter(weight)
        self.bias = None if bias is None else torch.nn.Parameter(bias)
        self.options = problem.options
        self.function = function

    def forward(self, input):
        return self.function(input * 2, self.weight, self.bias, **self.options) + 1


@pytest.mark.parametrize("name", ["channels_last", "average", "unbatched", "bfloat16"])  # some ten seconds each
def test_opcheck(name):
    problem = SAMPLES[name]
    tensors, options = problem.tensors(integers=True), raw_options(problem)
    torch.library.opcheck(OPS.conv2d_pool2d.default, tensors, options)
    torch.library.opcheck(OPS.conv2d_pool2d.default, with_requires_grad(tensors, ALL), options)


def test_opcheck_of_the_reference():
    problem = SAMPLES["average"]
    tensors, options = problem.tensors(integers=True), raw_options(problem)
    torch.library.opcheck(OPS.conv2d_pool2d_reference.default, with_requires_grad(tensors, ALL), options)


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, False), (False, True, True)])
@pytest.mark.parametrize("name", ["channels_last", "same_lopsided", "average_of_sums", "strided_dilated", "bfloat16"])
def test_opcheck_of_the_training_operators(name, mask):
    problem = SAMPLES[name]
    tensors, options = problem.tensors(integers=True), raw_options(problem)
    torch.library.opcheck(OPS.conv2d_pool2d_with_selection.default, tensors, options)
    output, selection = OPS.conv2d_pool2d_with_selection(*tensors, **options)
    assert torch.equal(output, OPS.conv2d_pool2d(*tensors, **options))
    arguments = (torch.ones_like(output), selection, *tensors[:2], mask)
    torch.library.opcheck(OPS.conv2d_pool2d_backward.default, arguments, options)


@by_sample
def test_meta_tensors_have_the_layout_of_the_result(problem):
    tensors = problem.tensors()
    on_meta = [None if t is None else t.to("meta") for t in tensors]
    expected = conv2d_pool2d(*tensors, **problem.options)
    assert_same_layout(conv2d_pool2d(*on_meta, **problem.options), expected)


@pytest.mark.parametrize("name", [*FEW, "depthwise_pooled", "average_of_nine"])
def test_compiles_to_one_graph(name):
    torch.compiler.reset()
    problem = SAMPLES[name]
    model = Block(problem)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    input = problem.tensors()[0].detach().requires_grad_()
    actual, expected = compiled(input), model(input)
    torch.testing.assert_close(actual, expected)
    assert_same_layout(actual, expected)
    leaves = [input, *model.parameters()]
    for a, e in zip(
        torch.autograd.grad(actual.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(a, e)
    with torch.no_grad():
        torch.testing.assert_close(compiled(input), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["channels_last", "average", "average_of_nine"])
def test_dynamic_sizes_compile_once(name, training):
    torch.compiler.reset()
    problem = SAMPLES[name]
    model = Block(problem).requires_grad_(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for batch, height in ((2, 14), (5, 20), (3, 31)):
        sized = Problem(**(vars(problem) | {"batch": batch, "height": height, "width": height + 1}))
        input = sized.tensors()[0].requires_grad_(training)
        output = compiled(input)
        torch.testing.assert_close(output, model(input))
        if training:
            (actual,) = torch.autograd.grad(output.sum(), input)
            torch.testing.assert_close(actual, torch.autograd.grad(model(input).sum(), input)[0])
    assert counter.frame_count == 1


def test_compiled_graph_holds_the_whole_operator():
    torch.compiler.reset()
    problem = SAMPLES["plain"]
    seen = []

    def keep_targets(graph_module, _):
        seen.extend(str(node.target) for node in graph_module.graph.nodes)
        return make_boxed_func(graph_module.forward)

    backend = torch._dynamo.backends.common.aot_autograd(fw_compiler=keep_targets, bw_compiler=keep_targets)
    input = problem.tensors()[0].requires_grad_()
    torch.compile(Block(problem), fullgraph=True, backend=backend)(input).sum().backward()
    assert "fastvision.conv2d_pool2d_with_selection.default" in seen
    assert "fastvision.conv2d_pool2d_backward.default" in seen
    assert not any("aten.convolution" in target for target in seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "channels_last"])
def test_inductor_forward_and_backward(name):
    torch.compiler.reset()
    problem = SAMPLES[name]
    model = Block(problem)
    compiled = torch.compile(model, fullgraph=True)
    input = problem.tensors()[0].requires_grad_()
    actual, expected = compiled(input), model(input)
    torch.testing.assert_close(actual, expected)
    leaves = [input, *model.parameters()]
    for a, e in zip(
        torch.autograd.grad(actual.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("name", FEW)
def test_exports(name):
    problem = SAMPLES[name]
    model = Block(problem)
    input = problem.tensors()[0]
    program = torch.export.export(model, (input,))
    assert any("fastvision.conv2d_pool2d" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(input), model(input))


def test_exports_with_dynamic_batch():
    model = Block(SAMPLES["plain"]).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (SAMPLES["plain"].tensors()[0],), dynamic_shapes=({0: batch},))
    for size in (1, 2, 7):
        input = Problem(batch=size).tensors()[0]
        torch.testing.assert_close(program.module()(input), model(input))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["plain", "channels_last", "average", "no_bias", "no_pool", "unbatched", "bfloat16"])
def test_autocast_gives_stocks_dtype(name, dtype):
    problem = SAMPLES[name]
    tensors = with_requires_grad(problem.tensors(integers=True), ALL)  # whose choices no rounding can turn
    leaves = [t for t in tensors if t is not None]
    results = []
    for function in (conv2d_pool2d, stock):
        with torch.autocast("cpu", dtype=dtype):
            output = function(*tensors, **problem.options)
        results.append((output, *torch.autograd.grad(output.sum(), leaves)))
    for actual, expected in zip(*results, strict=True):
        eps = torch.finfo(dtype).eps
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=4 * eps, atol=4 * eps * expected.abs().max().item())


def test_autocast_disabled_inside():
    tensors = SAMPLES["plain"].tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert conv2d_pool2d(*tensors).dtype == torch.float32


def test_inference_mode(capability):
    tensors = SAMPLES["plain"].tensors()
    with torch.inference_mode():
        output = conv2d_pool2d(*with_requires_grad(tensors, ALL))
        assert output.is_inference()
        again = conv2d_pool2d(output, torch.ones(4, 16, 2, 2))
    assert again.is_inference()
    assert torch.equal(output, conv2d_pool2d(*tensors))


def test_no_grad_keeps_nothing_for_backward(capability):
    tensors = with_requires_grad(SAMPLES["plain"].tensors(), ALL)
    with torch.no_grad():
        assert conv2d_pool2d(*tensors).grad_fn is None
    assert conv2d_pool2d(*tensors).grad_fn is not None


def test_training_computes_what_inference_does(capability):
    for problem in SAMPLES.values():
        tensors = problem.tensors()
        training = conv2d_pool2d(*with_requires_grad(tensors, ALL), **problem.options).detach()
        inference = conv2d_pool2d(*tensors, **problem.options)
        torch.testing.assert_close(training, inference)
        assert_same_layout(training, inference)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_models_can_be_copied(copied):
    problem = SAMPLES["plain"]
    model = Block(problem)
    input = problem.tensors()[0]
    model(input).sum().backward()
    other = copied(model)
    assert torch.equal(other(input), model(input))
    assert other.weight.data_ptr() != model.weight.data_ptr()


def test_vmap_over_inputs_and_over_weights():
    input, weight, bias = SAMPLES["plain"].tensors()
    inputs, weights = torch.stack([input, input + 1]), torch.stack([weight, -weight])
    for in_dims, arguments in {
        (0, None, None): (inputs, weight, bias),
        (None, 0, None): (input, weights, bias),
    }.items():
        actual = torch.func.vmap(conv2d_pool2d, in_dims)(*arguments)
        torch.testing.assert_close(actual, torch.func.vmap(stock, in_dims)(*arguments))


def test_functional_gradients():
    input, weight, bias = SAMPLES["plain"].tensors()

    def loss(function):
        return lambda weight, image: function(image, weight, bias).square().sum()

    actual = torch.func.grad(loss(conv2d_pool2d))(weight, input)
    torch.testing.assert_close(actual, torch.func.grad(loss(stock))(weight, input))
    per_image = torch.func.vmap(torch.func.grad(loss(conv2d_pool2d)), (None, 0))(weight, input)
    torch.testing.assert_close(per_image, torch.func.vmap(torch.func.grad(loss(stock)), (None, 0))(weight, input))


def test_functional_jacobians():
    input, weight, bias = Problem(batch=1, height=5, width=5, out_channels=2).tensors()
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        actual = transform(lambda w: conv2d_pool2d(input, w, bias).square().sum())(weight)
        torch.testing.assert_close(actual, transform(lambda w: stock(input, w, bias).square().sum())(weight))


def test_disabled_kernels_run_the_reference_bit_for_bit(capability):
    for problem in SAMPLES.values():
        tensors = problem.tensors()
        with fastvision.backends.enabled(False):
            output = conv2d_pool2d(*tensors, **problem.options)
            grads = gradients(conv2d_pool2d, problem, tensors, torch.ones_like(output))
        assert torch.equal(output, stock(*tensors, **problem.options))
        for a, e in zip(grads, gradients(stock, problem, tensors, torch.ones_like(output)), strict=True):
            assert torch.equal(a, e)
