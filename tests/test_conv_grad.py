"""Gradients of conv2d_pool2d: first and second order, on every instruction set.

By the direct kernels, whose sums of integers are exact; test_conv_winograd.py has those by Winograd's algorithm.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import (
    KERNEL_DTYPES,
    LAYOUTS,
    RMS_LIMITS,
    SAMPLES,
    Problem,
    assert_accurate,
    gradients,
    in_double,
    lay_out,
    problems,
    rms,
    stock,
    with_requires_grad,
)
from hypothesis import given
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.utils.checkpoint import checkpoint

import fastvision
from fastvision.ops import conv2d_pool2d

pytestmark = pytest.mark.usefixtures("one_thread", "no_winograd")
by_sample = pytest.mark.parametrize("problem", SAMPLES.values(), ids=SAMPLES)
ALL = (True, True, True)


def integer_gradient(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).to(dtype)


def check_gradients(problem, seed=0):
    """Against float64. Integers make the choices of ReLU and max-pool, ties among them, the same in every precision."""
    tensors = problem.tensors(seed, integers=True)
    output = stock(*in_double(tensors), **problem.options)
    grad_output = integer_gradient(output.shape, problem.dtype)
    actual = gradients(conv2d_pool2d, problem, tensors, grad_output)
    expected = gradients(stock, problem, in_double(tensors), grad_output)
    for a, e, tensor in zip(actual, expected, filter(torch.is_tensor, tensors), strict=True):
        assert (a.shape, a.dtype) == (tensor.shape, tensor.dtype)
        assert_accurate(a, e, scale=max(1.0, e.abs().max().item()))


@given(problem=problems((*KERNEL_DTYPES, torch.float32)))
def test_gradients_agree_with_float64(capability, problem):
    check_gradients(problem)


@by_sample
def test_sample_gradients_agree_with_float64(capability, problem):
    check_gradients(problem)


# Behind a max-pool the CPU kernels go from winner to winner, in tiles, chunks and bands: problems with several of each,
# and at the edges of what they take.
MAX_POOLED = {
    "tiles_and_chunks": Problem(batch=1, channels=40, out_channels=150, height=60, width=150),
    "bands_of_one_image": Problem(batch=1, channels=9, out_channels=20, height=130, width=30, options={"padding": 1}),
    "many_channels": Problem(batch=3, channels=70, out_channels=70, height=12, width=11, layout="channels_last"),
    "overlapping": Problem(height=20, channels=12, options={"pool_kernel_size": 3, "pool_stride": 2, "padding": 2}),
    "every_pixel": Problem(channels=8, options={"pool_kernel_size": 2, "pool_stride": 1}),
    "gaps": Problem(height=31, width=28, channels=8, options={"pool_stride": 7, "padding": 1}),
    "pool_padding": Problem(channels=9, options={"pool_padding": 1, "padding": (2, 3), "ceil_mode": True}),
    "pool_padding_of_three": Problem(
        channels=9, options={"pool_kernel_size": 3, "pool_stride": (3, 2), "pool_padding": 1, "padding": (0, 3)}
    ),
    "wide_window": Problem(height=18, width=20, channels=5, options={"pool_kernel_size": 4}),
    "wider_window": Problem(height=18, width=20, channels=5, options={"pool_kernel_size": (5, 4)}),
    "grouped": Problem(channels=27, out_channels=45, options={"groups": 3}),
    "one_channel": Problem(channels=1, height=40, width=40),
    "six_channels": Problem(channels=6, kernel_size=(5, 5), height=20, options={"padding": 2}),
    "seven_by_seven": Problem(channels=3, kernel_size=(7, 7), height=30, width=33, options={"stride": 2, "padding": 3}),
    "four_by_two": Problem(channels=18, kernel_size=(4, 2), height=20, options={"dilation": (2, 1), "stride": (1, 2)}),
    "without_relu": Problem(channels=16, options={"activation": "none"}),
    "bfloat16": Problem(channels=20, height=30, dtype=torch.bfloat16),
    "float16": Problem(
        channels=20, height=30, dtype=torch.float16, layout="channels_last", weight_layout="channels_last"
    ),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("problem", MAX_POOLED.values(), ids=MAX_POOLED)
def test_gradients_behind_a_max_pool_agree_with_float64(capability, problem, layout):
    check_gradients(replace(problem, layout=layout))


@pytest.mark.parametrize("channels", [1, 3, 8, 40])
def test_rms_error_of_gradients_behind_a_max_pool_is_at_most_stocks(capability, channels):
    # Integers, so that the choices are the same in every precision; the gradients are rounded all the same.
    problem = Problem(batch=4, channels=channels, height=60, width=60, out_channels=80, options={"padding": 1})
    ours, stocks = [0.0] * 3, [0.0] * 3
    for seed in range(2):
        tensors = problem.tensors(seed, integers=True)
        generator = torch.Generator().manual_seed(seed)
        grad_output = torch.randn(stock(*tensors, **problem.options).shape, generator=generator)
        expected = gradients(stock, problem, in_double(tensors), grad_output)
        for errors, function in ((ours, conv2d_pool2d), (stocks, stock)):
            actual = gradients(function, problem, tensors, grad_output)
            for i in range(3):
                errors[i] += rms(actual[i] - expected[i])
    # Window by window, sums of the input's gradient go to memory more often than stock's.
    limits = [RMS_LIMITS[capability] * more for more in (1.15, 1, 1)]
    assert all(a <= limit * s for a, limit, s in zip(ours, limits, stocks, strict=True)), (ours, stocks)


@pytest.mark.parametrize("options", [{}, {"pool_kernel_size": 3, "pool_stride": 1}, {"activation": "none"}])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_of_equal_values_the_first_gets_the_gradient(capability, options, layout):
    problem = Problem(channels=4, out_channels=40, layout=layout, options=options)
    tensors = problem.tensors(integers=True)
    grad_output = torch.randn(stock(*tensors, **options).shape)
    actual = gradients(lambda *t, **o: conv2d_pool2d(*t, **o), problem, tensors, grad_output)
    expected = gradients(stock, problem, tensors, grad_output)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("pool", ["avg", "none"])
@pytest.mark.parametrize("channels", [3, 64])
def test_rms_error_of_gradients_is_at_most_stocks(capability, pool, channels):
    # Without ReLU and maximum there are no choices that rounding could turn.
    options = {"activation": "none", "pool": pool, "padding": 1}
    problem = Problem(channels=channels, height=24, width=24, out_channels=64, options=options)
    ours, stocks = [0.0] * 3, [0.0] * 3
    for seed in range(3):
        tensors = problem.tensors(seed)
        grad_output = torch.randn(stock(*tensors, **options).shape)
        expected = gradients(stock, problem, in_double(tensors), grad_output)
        for errors, function in ((ours, conv2d_pool2d), (stocks, stock)):
            actual = gradients(function, problem, tensors, grad_output)
            for i in range(3):
                errors[i] += rms(actual[i] - expected[i])
    assert all(a <= RMS_LIMITS[capability] * s for a, s in zip(ours, stocks, strict=True)), (ours, stocks)


@pytest.mark.parametrize("wanted", list(product((False, True), repeat=3)))
@pytest.mark.parametrize("name", ["plain", "unbatched", "grouped", "strided_dilated", "float64"])
def test_requires_grad_of_subsets(capability, wanted, name):
    problem = SAMPLES[name]
    tensors = problem.tensors(integers=True)
    ours, stocks = with_requires_grad(tensors, wanted), with_requires_grad(tensors, wanted)
    outputs = conv2d_pool2d(*ours, **problem.options), stock(*stocks, **problem.options)
    assert outputs[0].requires_grad == outputs[1].requires_grad == any(wanted)
    if not any(wanted):
        return
    for output in outputs:
        output.sum().backward()
    for a, e in zip(ours, stocks, strict=True):
        assert (a.grad is None) == (e.grad is None)
        if e.grad is not None:
            torch.testing.assert_close(a.grad, e.grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_output_gradient(capability, layout):
    problem = SAMPLES["channels_last"]
    tensors = problem.tensors(integers=True)
    shape = stock(*tensors).shape
    grad_output = lay_out(integer_gradient(shape, torch.float32), layout)
    actual = gradients(conv2d_pool2d, problem, tensors, grad_output)
    for a, e in zip(actual, gradients(stock, problem, tensors, grad_output), strict=True):
        torch.testing.assert_close(a, e)


def test_gradients_accumulate_and_the_graph_can_be_kept(capability):
    tensors = with_requires_grad(SAMPLES["plain"].tensors(), ALL)
    output = conv2d_pool2d(*tensors)
    output.sum().backward(retain_graph=True)
    once = [t.grad.clone() for t in tensors]
    output.sum().backward()
    for tensor, gradient in zip(tensors, once, strict=True):
        assert torch.equal(tensor.grad, 2 * gradient)


def test_input_changed_before_backward_is_noticed(capability):
    tensors = with_requires_grad(SAMPLES["plain"].tensors(), ALL)
    output = conv2d_pool2d(*tensors)
    with torch.no_grad():
        tensors[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_backward_of_a_kernel_runs_when_kernels_are_disabled(capability):
    problem = SAMPLES["plain"]
    tensors = with_requires_grad(problem.tensors(integers=True), ALL)
    output = conv2d_pool2d(*tensors)
    with fastvision.backends.enabled(False):
        actual = torch.autograd.grad(output.sum(), tensors)
    expected = gradients(stock, problem, tensors, torch.ones_like(output))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_checkpointing_gives_the_same_gradients(capability):
    tensors = with_requires_grad(SAMPLES["plain"].tensors(), ALL)
    expected = torch.autograd.grad(conv2d_pool2d(*tensors).sum(), tensors)
    actual = torch.autograd.grad(checkpoint(conv2d_pool2d, *tensors, use_reentrant=False).sum(), tensors)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("pool", ["max", "avg", "none"])
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_nan_gradients_go_where_stock_puts_them(capability, pool, activation):
    problem = Problem(batch=3, channels=5, options={"pool": pool, "activation": activation})
    tensors = problem.tensors(integers=True)
    tensors[0][1, 2, 4, 4] = torch.nan
    grad_output = integer_gradient(stock(*tensors, **problem.options).shape, torch.float32)
    grad_output[2, 3, 1, 1] = torch.nan
    grad_output[2, 4, 2, 3] = torch.inf
    actual = gradients(conv2d_pool2d, problem, tensors, grad_output)
    for a, e in zip(actual, gradients(stock, problem, tensors, grad_output), strict=True):
        torch.testing.assert_close(a, e, equal_nan=True)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_zero_gradients_times_infinity_are_nan(capability, where, value):
    problem = Problem(batch=3, channels=9)
    tensors = problem.tensors(integers=True)
    tensors[("input", "weight").index(where)][1, 2, 1, 1] = value
    grad_output = integer_gradient(stock(*tensors).shape, torch.float32)
    actual = gradients(conv2d_pool2d, problem, tensors, grad_output)
    for a, e in zip(actual, gradients(stock, problem, tensors, grad_output), strict=True):
        # At the border of the image zeros from outside meet the weight too.
        known = ~a.isnan() if where == "weight" else torch.ones_like(a, dtype=bool)
        torch.testing.assert_close(a[known], e[known], equal_nan=where == "input")
        assert a.isnan().any() or not e.isnan().any()


@pytest.mark.parametrize("shape", [(0, 3, 9, 11), (0, 3, 6, 6)])
def test_empty_batch(capability, shape):
    _, *parameters = SAMPLES["plain"].tensors()
    tensors = with_requires_grad((torch.zeros(shape), *parameters), ALL)
    conv2d_pool2d(*tensors).sum().backward()
    assert tensors[0].grad.shape == shape
    assert not tensors[1].grad.any()
    assert not tensors[2].grad.any()


@by_sample
def test_gradcheck(problem):
    small = Problem(**(vars(problem) | {"dtype": torch.float64, "batch": problem.batch and 1, "out_channels": 6}))
    options = small.options | {"groups": 2 if problem.options.get("groups", 1) > 1 else 1}
    small = Problem(**(vars(small) | {"channels": 2, "options": options}))
    tensors = with_requires_grad(small.tensors(), ALL)
    arguments = [t for t in tensors if t is not None]

    def function(*tensors):
        return conv2d_pool2d(*tensors, **options)

    assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


def second_order(function, problem, tensors):
    """Gradients of a penalty on the first gradients."""
    leaves = with_requires_grad(tensors, ALL)
    leaves = [t for t in leaves if t is not None]
    output = function(*leaves, **problem.options)
    first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    penalty = sum(g.square().sum() for g in first)
    return torch.autograd.grad(penalty, leaves)


@pytest.mark.parametrize("name", ["plain", "channels_last", "average", "grouped", "same_lopsided", "no_bias"])
def test_second_gradients_agree_with_float64(capability, name):
    problem = SAMPLES[name]
    tensors = problem.tensors(integers=True)
    expected = second_order(stock, problem, in_double(tensors))
    for a, e in zip(second_order(conv2d_pool2d, problem, tensors), expected, strict=True):
        assert_accurate(a, e, scale=e.abs().max().item())


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, True, True)])
def test_second_gradients_of_subsets(capability, wanted):
    problem = SAMPLES["plain"]

    def run(function):
        tensors = with_requires_grad(problem.tensors(integers=True), wanted)
        leaves = [t for t in tensors if t.requires_grad]
        first = torch.autograd.grad(function(*tensors).square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    for a, e in zip(run(conv2d_pool2d), run(stock), strict=True):
        torch.testing.assert_close(a, e)


def test_forward_mode_agrees_with_stock(capability):
    tensors = SAMPLES["plain"].tensors()
    tangents = [torch.randn_like(t) for t in tensors]

    def derivative(function):
        with dual_level():
            duals = [make_dual(t, tangent) for t, tangent in zip(tensors, tangents, strict=True)]
            return unpack_dual(function(*duals)).tangent

    torch.testing.assert_close(derivative(conv2d_pool2d), derivative(stock))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["tails", "padded", "average", "grouped", "strided_dilated"])
def test_one_and_two_intraop_threads_agree_bit_for_bit(capability, intraop_threads, name, batch):
    if name == "grouped" and capability == "emulated":
        pytest.skip("the CUDA kernels leave groups to stock, whose result depends on the number of threads")
    problem = replace(SAMPLES[name], batch=batch, height=80, width=40)
    tensors = problem.tensors()
    grad_output = torch.randn(stock(*tensors, **problem.options).shape)
    intraop_threads(1)
    one = gradients(conv2d_pool2d, problem, tensors, grad_output)
    intraop_threads(2)
    two = gradients(conv2d_pool2d, problem, tensors, grad_output)
    assert all(torch.equal(a, b) for a, b in zip(two, one, strict=True))


def test_eight_python_threads_agree_with_one(capability):
    work = [(problem, problem.tensors(seed)) for seed in range(8) for problem in map(SAMPLES.get, ("tails", "padded"))]

    def run(item):
        problem, tensors = item
        output = conv2d_pool2d(*tensors, **problem.options)
        return gradients(conv2d_pool2d, problem, tensors, torch.ones_like(output))

    alone = list(map(run, work))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, work))
    assert all(torch.equal(a, b) for x, y in zip(together, alone, strict=True) for a, b in zip(x, y, strict=True))
