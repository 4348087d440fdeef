"""conv2d_batch_norm_pool2d: convolution, batch normalisation by given statistics, activation and pooling."""

import pytest
import torch
import torch.nn.functional as F
from cases import SAMPLES, Problem, assert_accurate, assert_same_layout, in_double, problems, raw_options, stock
from hypothesis import given
from profiled import operators_of

import fastvision
from fastvision.ops import conv2d_batch_norm_pool2d, conv2d_batch_norm_pool2d_reference

OPERATOR = torch.ops.fastvision.conv2d_batch_norm_pool2d.default
EPS = 0.1
pytestmark = pytest.mark.usefixtures("one_thread")
# Winograd's forms and the planar one beside the kernels of SAMPLES.
LARGE = {
    "winograd": Problem(batch=1, channels=32, height=22, width=26, out_channels=37, options={"padding": 1}),
    "winograd_last": Problem(
        batch=2, channels=16, height=14, width=14, layout="channels_last", weight_layout="channels_last"
    ),
    "few_tiles": Problem(batch=1, channels=48, height=8, width=8, out_channels=80, options={"pool": "none"}),
    "planes": Problem(batch=1, channels=3, height=30, width=30, out_channels=19),
}
BATCHED = {name: p for name, p in (SAMPLES | LARGE).items() if p.batch is not None and p.dtype == torch.float32}


def draw_norm(problem, missing=()):
    """Statistics, weight and bias of a BatchNorm2d; the variance is of the order of the convolution's."""
    generator = torch.Generator().manual_seed(1)
    mean, gamma, beta = torch.randn((3, problem.out_channels), generator=generator).to(problem.dtype)
    var = torch.rand(problem.out_channels, generator=generator).to(problem.dtype) + 0.5
    return [mean, var, None if "gamma" in missing else gamma, None if "beta" in missing else beta]


def stock_with_norm(input, weight, bias, mean, var, gamma=None, beta=None, eps=1e-5, **options):
    """As a user of stock PyTorch writes it."""
    convolution = {name: options.pop(name) for name in ("stride", "padding", "dilation", "groups") if name in options}
    convolved = stock(input, weight, bias, **convolution, activation="none", pool="none")
    normalised = F.batch_norm(convolved, mean, var, gamma, beta, eps=eps)
    channels = normalised.shape[1]
    one = torch.ones(channels, 1, 1, 1, dtype=normalised.dtype)
    return stock(normalised, one, groups=channels, **options)


def exact_with_norm(problem, tensors, norm):
    return stock_with_norm(*in_double((*tensors, *norm)), EPS, **problem.options)


@pytest.mark.parametrize("problem", BATCHED.values(), ids=BATCHED)
def test_sample_agrees_with_float64(capability, problem):
    tensors, norm = problem.tensors(), draw_norm(problem)
    output = conv2d_batch_norm_pool2d(*tensors, *norm, EPS, **problem.options)
    assert_accurate(output, exact_with_norm(problem, tensors, norm), scale=4)
    assert_same_layout(output, stock(*tensors, **problem.options))


@given(problem=problems((torch.float32, torch.float32, torch.bfloat16, torch.float64)))
def test_agrees_with_float64(problem):
    if problem.batch is None:
        return
    tensors, norm = problem.tensors(), draw_norm(problem)
    output = conv2d_batch_norm_pool2d(*tensors, *norm, EPS, **problem.options)
    assert_accurate(output, exact_with_norm(problem, tensors, norm), scale=4)


@pytest.mark.parametrize("name", ["plain", "winograd", "planes", "pointwise", "depthwise", "few_outputs"])
def test_the_kernel_runs_and_makes_one_pass(capability, name):
    """Otherwise these tests would compare stock with itself."""
    if capability == "emulated":
        pytest.skip("the CUDA kernels leave folding to operators")
    problem = BATCHED[name]
    arguments = (*problem.tensors(), *draw_norm(problem), EPS)
    names = operators_of(lambda: conv2d_batch_norm_pool2d(*arguments, **problem.options))
    assert names == {"fastvision::conv2d_batch_norm_pool2d", "aten::empty"}


@pytest.mark.parametrize("missing", [("gamma",), ("beta",), ("gamma", "beta")])
def test_without_weight_or_bias(capability, missing):
    problem = BATCHED["no_bias"]
    tensors, norm = problem.tensors(), draw_norm(problem, missing)
    assert_accurate(
        conv2d_batch_norm_pool2d(*tensors, *norm, EPS, **problem.options), exact_with_norm(problem, tensors, norm), 4
    )


def test_strided_statistics(capability):
    problem = BATCHED["plain"]
    tensors, norm = problem.tensors(), [t.repeat_interleave(2)[::2] for t in draw_norm(problem)]
    assert not norm[0].is_contiguous()
    assert_accurate(conv2d_batch_norm_pool2d(*tensors, *norm, EPS), exact_with_norm(problem, tensors, norm), 4)


def test_statistics_that_are_no_numbers(capability):
    problem = BATCHED["only_convolution"]
    tensors, norm = problem.tensors(), draw_norm(problem)
    norm[0][1], norm[1][2], norm[1][3] = torch.nan, torch.inf, -1.0  # the square root of less than nothing
    actual = conv2d_batch_norm_pool2d(*tensors, *norm, EPS, **problem.options)
    torch.testing.assert_close(actual, stock_with_norm(*tensors, *norm, EPS, **problem.options), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_run_the_reference(dtype):
    problem = Problem(dtype=dtype)
    arguments = (*problem.tensors(), *draw_norm(problem), EPS)
    expected = conv2d_batch_norm_pool2d_reference(*arguments)
    assert torch.equal(conv2d_batch_norm_pool2d(*arguments), expected)
    assert torch.equal(stock_with_norm(*arguments), expected)


def test_disabled_kernels_run_the_reference():
    arguments = (*BATCHED["winograd"].tensors(), *draw_norm(BATCHED["winograd"]), EPS)
    expected = conv2d_batch_norm_pool2d_reference(*arguments)
    with fastvision.backends.enabled(False):
        assert torch.equal(conv2d_batch_norm_pool2d(*arguments), expected)


def test_gradients_of_all_tensors(capability):
    problem = BATCHED["plain"]
    results = []
    for function in (conv2d_batch_norm_pool2d, stock_with_norm):
        leaves = [t.detach().requires_grad_() for t in (*problem.tensors(), *draw_norm(problem))]
        if function is stock_with_norm:  # whose statistics have no gradient
            leaves[3:5] = [t.detach() for t in leaves[3:5]]
        output = function(*leaves, EPS)
        wanted = [leaf for i, leaf in enumerate(leaves) if i not in (3, 4)]
        results.append([output.detach(), *torch.autograd.grad(output.square().sum(), wanted)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)


def test_second_derivatives():
    problem = Problem(batch=1, channels=2, height=5, width=6, out_channels=3, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (*problem.tensors(), *draw_norm(problem))]
    assert torch.autograd.gradgradcheck(
        lambda *t: conv2d_batch_norm_pool2d(*t, EPS, pool="avg", activation="none"), leaves
    )


def test_opcheck():
    problem = Problem(batch=1)
    arguments = (*problem.tensors(), *draw_norm(problem), EPS)
    torch.library.opcheck(OPERATOR, arguments, raw_options(problem))
    leaves = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in arguments]
    torch.library.opcheck(OPERATOR, (*leaves[:3], *(t.detach() for t in leaves[3:5]), *leaves[5:]))


def test_autocast_casts_the_convolution():
    problem = Problem()
    arguments = (*problem.tensors(), *draw_norm(problem), EPS)
    with torch.autocast("cpu"):
        output, expected = conv2d_batch_norm_pool2d(*arguments), stock_with_norm(*arguments)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected.bfloat16(), rtol=0.02, atol=0.05)


def test_vmap():
    problem = Problem()
    input, *others = (*problem.tensors(), *draw_norm(problem), EPS)
    inputs = torch.stack([input, -input])
    actual = torch.func.vmap(lambda x: conv2d_batch_norm_pool2d(x, *others))(inputs)
    torch.testing.assert_close(actual, torch.stack([stock_with_norm(x, *others) for x in inputs]))


@pytest.mark.parametrize("index", [3, 4, 5, 6])
def test_statistics_of_another_size_raise_as_stock(index):
    arguments = [*Problem().tensors(), *draw_norm(Problem()), EPS]
    arguments[index] = arguments[index][:-1]
    with pytest.raises(RuntimeError) as ours:
        conv2d_batch_norm_pool2d(*arguments)
    with pytest.raises(RuntimeError) as theirs:
        stock_with_norm(*arguments)
    assert str(ours.value) == str(theirs.value)
