"""What conv2d_pool2d computes, on every instruction set: values, layouts, non-finite numbers, threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import (
    KERNEL_DTYPES,
    LAYOUTS,
    RMS_LIMITS,
    SAMPLES,
    STOCKS,
    Problem,
    assert_accurate,
    assert_same_layout,
    exact,
    in_double,
    lay_out,
    problems,
    raw_options,
    rms,
    stock,
)
from hypothesis import example, given
from hypothesis import strategies as st

from fastvision.ops import conv2d_pool2d, conv2d_pool2d_reference

ALL_DTYPES = (*KERNEL_DTYPES, torch.float64)
pytestmark = pytest.mark.usefixtures("one_thread")
# Samples that run the reference, at least in training, or whose batch the training operator misses.
WITHOUT_KERNEL = {"depthwise_pooled", "float64", "average_of_nine", "unbatched"}
by_sample = pytest.mark.parametrize("problem", SAMPLES.values(), ids=SAMPLES)


@given(problems(ALL_DTYPES))
def test_reference_is_stock(problem):
    tensors = problem.tensors()
    actual, expected = conv2d_pool2d_reference(*tensors, **problem.options), stock(*tensors, **problem.options)
    assert_same_layout(actual, expected)
    assert torch.equal(actual, expected)


@given(problem=problems((*ALL_DTYPES, torch.float32, torch.float32)), seed=st.integers(0, 1000))
@example(problem=SAMPLES["long_sums"], seed=0)
@example(problem=SAMPLES["tails"], seed=0)
def test_agrees_with_float64(capability, problem, seed):
    tensors = problem.tensors(seed)
    output = conv2d_pool2d(*tensors, **problem.options)
    assert_accurate(output, exact(problem, tensors))
    if stock(*tensors, **problem.options | {"pool": "none"}).shape[-2:] != (
        1,
        1,
    ):  # of one pixel stock loses the layout
        assert_same_layout(output, stock(*tensors, **problem.options))


# Every branch of the kernels at least once, whatever hypothesis draws.
@by_sample
def test_sample_agrees_with_float64(capability, problem):
    tensors = problem.tensors()
    output = conv2d_pool2d(*tensors, **problem.options)
    assert_accurate(output, exact(problem, tensors))
    assert_same_layout(output, stock(*tensors, **problem.options))


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - WITHOUT_KERNEL))
def test_samples_run_kernels(capability, name):
    """Otherwise these tests would compare stock with itself. The operator of training raises where there is none."""
    if "groups" in SAMPLES[name].options and capability == "emulated":
        pytest.skip("the CUDA kernels leave groups to cuDNN")
    if name in STOCKS.get(capability, ()):
        pytest.skip("stock is faster with these vectors")
    problem = SAMPLES[name]
    torch.ops.fastvision.conv2d_pool2d_with_selection(*problem.tensors(), **raw_options(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_layouts(capability, layout, weight_layout, channels):
    problem = Problem(channels=channels, out_channels=33, layout=layout, weight_layout=weight_layout)
    tensors = problem.tensors()
    output = conv2d_pool2d(*tensors, **problem.options)
    assert_accurate(output, exact(problem, tensors))
    assert_same_layout(output, stock(*tensors, **problem.options))


@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("pool", ["max", "avg", "none"])
@pytest.mark.parametrize("training", [False, True])
def test_layout_of_an_unbatched_result(capability, weight_layout, pool, training):
    tensors = Problem(batch=None, weight_layout=weight_layout).tensors()
    leaves = [t.requires_grad_(training) for t in tensors]
    expected = stock(*tensors, pool=pool)
    assert_same_layout(conv2d_pool2d(*leaves, pool=pool), expected)
    if not training:  # then the reference runs, and stock's own rules for meta tensors are less exact
        assert_same_layout(conv2d_pool2d(*(t.to("meta") for t in leaves), pool=pool), expected)


def test_a_single_column_in_bfloat16(capability):
    """With AMX stock's result is rubbish there, and otherwise faster in this layout."""
    options = {"stride": (1, 2), "padding": 1, "pool": "none"}
    problem = Problem(1, 64, 8, 2, 64, dtype=torch.bfloat16, layout="channels_last", options=options)
    tensors = problem.tensors()
    assert_accurate(conv2d_pool2d(*tensors, **problem.options), exact(problem, tensors))


def test_strided_bias(capability):
    input, weight, _ = SAMPLES["plain"].tensors()
    bias = torch.randn(16, 3)[:, 1]
    assert_accurate(conv2d_pool2d(input, weight, bias), stock(*in_double((input, weight, bias))))


@pytest.mark.parametrize(
    "problem",
    [
        Problem(batch=1, height=64, width=64, out_channels=32),
        Problem(batch=1, height=64, width=64, out_channels=32, layout="channels_last"),
        Problem(batch=1, channels=1, height=28, width=28, out_channels=32, options={"padding": 1}),
        Problem(batch=1, channels=32, height=33, width=33, out_channels=64),
        Problem(batch=1, channels=64, height=20, width=20, out_channels=128, layout="channels_last"),
        Problem(batch=1, channels=256, height=12, width=12, out_channels=64),
        Problem(batch=1, channels=128, height=24, width=24, out_channels=64, kernel_size=(1, 1)),
        Problem(batch=1, channels=3, height=65, width=65, out_channels=64, kernel_size=(7, 7), options={"stride": 2}),
        Problem(batch=1, channels=16, height=30, width=30, out_channels=32, kernel_size=(5, 5)),
    ],
    ids=lambda p: f"{p.channels}to{p.out_channels}k{p.kernel_size[0]}{p.layout[0]}",
)
@pytest.mark.parametrize("pool", ["max", "avg", "none"])
def test_rms_error_is_at_most_stocks(capability, no_winograd, problem, pool):
    options = problem.options | {"pool": pool}
    ours = stocks = 0.0
    for seed in range(3):
        tensors = problem.tensors(seed)
        expected = stock(*in_double(tensors), **options)
        ours += rms(conv2d_pool2d(*tensors, **options) - expected)
        stocks += rms(stock(*tensors, **options) - expected)
    assert ours <= RMS_LIMITS[capability] * stocks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", ["max", "avg", "none"])
def test_16_bit_error_is_the_rounding_of_the_output(capability, no_winograd, dtype, pool):
    problem = Problem(channels=40, out_channels=40, dtype=dtype, options={"pool": pool})
    tensors = problem.tensors()
    half_unit = torch.finfo(dtype).eps / 2
    output = conv2d_pool2d(*tensors, **problem.options).double()
    torch.testing.assert_close(output, exact(problem, tensors), rtol=1.001 * half_unit, atol=1e-6)


@by_sample
def test_integers_are_exact(capability, no_winograd, problem):
    tensors = problem.tensors(integers=True)
    output = conv2d_pool2d(*tensors, **problem.options)
    expected = exact(problem, tensors)
    if problem.options.get("pool") == "avg":
        assert_accurate(output, expected)
    else:
        assert torch.equal(output.double(), expected)


@pytest.mark.parametrize("pool", ["max", "avg", "none"])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("pool_kernel_size", [2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nonfinite_input_goes_where_stock_puts_it(capability, pool, activation, pool_kernel_size, layout):
    options = {"pool": pool, "activation": activation, "pool_kernel_size": pool_kernel_size, "pool_stride": 2}
    input, weight, bias = Problem(batch=8, channels=5, height=12, width=12, layout=layout).tensors()
    for image in range(1, 8):  # the first image stays finite
        input[image, image % 5, image, 11 - image] = (torch.nan, torch.inf, -torch.inf)[image % 3]
    input[7, 0, 3:5, 3:5] = torch.tensor([[torch.inf, -torch.inf], [torch.nan, torch.inf]])  # inf - inf
    output, expected = conv2d_pool2d(input, weight, bias, **options), stock(input, weight, bias, **options)
    assert torch.isfinite(output[0]).all()
    assert not torch.isfinite(output[1:]).flatten(1).all(1).any()
    assert_accurate(output, expected.double())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("pool", ["max", "avg", "none"])
def test_nonfinite_weight_and_bias_go_where_stock_puts_them(capability, value, pool):
    input, weight, bias = Problem(channels=5, out_channels=40).tensors()
    weight[1, 2, 0, 1] = weight[35, 4, 2, 2] = value
    bias[2] = bias[39] = value
    output = conv2d_pool2d(input, weight, bias, pool=pool)
    changed = ~torch.isfinite(stock(input, weight, bias, pool=pool)).all(dim=3).all(dim=2).all(dim=0)
    assert changed.any()
    assert_accurate(output, stock(input, weight, bias, pool=pool).double())


def test_window_of_negative_infinities(capability):
    input = torch.full((1, 1, 4, 4), -torch.inf)
    weight = torch.ones(8, 1, 1, 1)
    for options in ({}, {"pool_kernel_size": 3, "pool_stride": 1, "pool_padding": 1}):
        output = conv2d_pool2d(input, weight, activation="none", **options)
        assert torch.equal(output, stock(input, weight, activation="none", **options))


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_empty_batch(capability, dtype):
    input, weight, bias = Problem(dtype=dtype, layout="channels_last").tensors()
    output = conv2d_pool2d(input[:0], weight, bias)
    assert_same_layout(output, stock(input[:0], weight, bias))


@pytest.mark.parametrize("shape", [(2, 3, 0, 5), (2, 3, 5, 0), (2, 0, 5, 5), (0, 5, 5), (0, 3, 2, 2)])
@pytest.mark.parametrize("padding", [0, 2])
def test_empty_images_are_what_they_are_to_stock(capability, shape, padding):
    input, weight = torch.zeros(shape), torch.zeros(4, shape[-3], 3, 3)
    try:
        expected = stock(input, weight, padding=padding)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            conv2d_pool2d(input, weight, padding=padding)
    else:
        assert_same_layout(conv2d_pool2d(input, weight, padding=padding), expected)


def test_window_larger_than_the_image_in_ceil_mode(capability):
    problem = Problem(height=5, width=5, options={"pool_kernel_size": (5, 6), "ceil_mode": True})
    tensors = problem.tensors()
    output = conv2d_pool2d(*tensors, **problem.options)
    assert output.shape[2:] == (1, 1)
    assert_accurate(output, exact(problem, tensors))


@pytest.mark.parametrize("window", [(15, 17), (16, 16), (300, 1)])
def test_large_pool_windows(capability, window):
    problem = Problem(batch=1, height=302, width=20, options={"pool_kernel_size": window, "pool_stride": 1})
    tensors = problem.tensors()
    assert_accurate(conv2d_pool2d(*tensors, **problem.options), exact(problem, tensors))


# Large enough to be cut into pieces for the threads.
PARALLEL = [
    Problem(batch=3, channels=17, height=40, width=40, out_channels=40),
    Problem(batch=1, height=70, width=70, out_channels=32, options={"pool_kernel_size": 3, "pool_stride": 2}),
    Problem(batch=2, channels=16, height=30, width=30, out_channels=32, options={"pool": "avg", "groups": 2}),
]


@pytest.mark.parametrize("problem", PARALLEL, ids=["batch", "image", "groups"])
def test_one_and_two_intraop_threads_agree_bit_for_bit(capability, intraop_threads, problem):
    tensors = problem.tensors()
    intraop_threads(1)
    one = conv2d_pool2d(*tensors, **problem.options)
    intraop_threads(2)
    assert torch.equal(conv2d_pool2d(*tensors, **problem.options), one)


def test_eight_python_threads_agree_with_one(capability):
    work = [(problem, problem.tensors(seed)) for seed in range(8) for problem in PARALLEL]

    def run(item):
        problem, tensors = item
        return conv2d_pool2d(*tensors, **problem.options)

    alone = list(map(run, work))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, work))
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_gaps_in_memory_are_not_read():
    values = torch.randn(2, 3, 4, 5)
    view = lay_out(values, "sliced")
    assert torch.equal(view, values)
    assert view.untyped_storage().nbytes() > 2 * values.nbytes
