"""3x3 convolutions by Winograd's algorithm: their rounding, their threads, what they do with NaN, and their switch."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from cases import (
    LAYOUTS,
    RMS_LIMITS,
    Problem,
    assert_accurate,
    assert_same_layout,
    exact,
    gradients,
    in_double,
    raw_options,
    rms,
    stock,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fastvision
from fastvision.ops import conv2d_pool2d

# The emulated CUDA kernels have no Winograd.
CAPABILITIES = [name for name in fastvision.backends.cpu.available_capabilities() if name != "emulated"]
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.parametrize("capability", CAPABILITIES, indirect=True),
]

POOLS = {
    "max": {},
    "overlapping": {"pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1},
    "ceil_mode": {"pool_kernel_size": 3, "pool_stride": 2, "ceil_mode": True},
    "average": {"pool": "avg", "pool_kernel_size": (2, 3), "pool_stride": (2, 1), "count_include_pad": False},
    "none": {"pool": "none"},
}
LARGE = {
    "a tile row in pieces": Problem(channels=33, height=20, width=130, out_channels=40, options={"padding": 1}),
    "images together": Problem(batch=7, channels=32, height=13, width=11, out_channels=33),
    "blocks of weights": Problem(batch=2, channels=130, height=8, width=9, out_channels=70, options={"padding": 1}),
    "more weights than inputs": Problem(batch=9, channels=160, height=16, width=16, out_channels=200),
    "groups": Problem(batch=3, channels=64, height=16, width=18, out_channels=96, options={"groups": 2}),
    "bands that share rows": Problem(
        batch=2, channels=32, height=40, width=70, out_channels=32, options=POOLS["overlapping"]
    ),
    "planes": Problem(batch=3, channels=3, height=70, width=300, out_channels=33),
    "small planes": Problem(batch=9, channels=1, height=9, width=7, out_channels=17, options={"padding": 2}),
}
by_large = pytest.mark.parametrize("problem", LARGE.values(), ids=LARGE)


@contextmanager
def winograd_forbidden():
    fastvision.backends.cpu.allow_winograd = False
    try:
        yield
    finally:
        fastvision.backends.cpu.allow_winograd = True


def without_winograd(problem, tensors):
    with winograd_forbidden():
        return conv2d_pool2d(*tensors, **problem.options)


def two_by_two_windows(sums, selection):
    """The four convolution outputs of each pooling window, the selected one, and whether it lives, by pooled output."""
    selection = selection.permute(0, 3, 1, 2)
    height, width = selection.shape[2:]
    windows = sums[:, :, : 2 * height, : 2 * width].unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    alive = selection != 255
    chosen = windows.gather(-1, selection.where(alive, 0).long()[..., None])[..., 0]
    return windows, chosen, alive


@st.composite
def winograd_problems(draw):
    """3x3 convolutions with stride 1 of every size of image, most of them with enough channels for Winograd."""

    def choose(*values):
        return draw(st.sampled_from(values))

    few = draw(st.booleans())
    return Problem(
        batch=choose(1, 2, 5, None),
        channels=choose(1, 2, 3, 4) if few else choose(32, 33, 40, 63),
        height=draw(st.integers(5, 22)),
        width=draw(st.integers(5, 37)),
        out_channels=choose(1, 8, 15, 16, 17, 32, 40),
        bias=draw(st.booleans()),
        dtype=choose(torch.float32, torch.float32, torch.bfloat16, torch.float16),
        layout=choose(*LAYOUTS),
        weight_layout=choose("contiguous", "channels_last"),
        options={
            "padding": choose(0, 1, 2, "same", (0, 3)),
            "activation": choose("relu", "relu", "none"),
            **choose(*POOLS.values()),
        },
    )


@given(problem=winograd_problems(), seed=st.integers(0, 1000))
def test_agrees_with_float64(capability, problem, seed):
    tensors = problem.tensors(seed)
    output = conv2d_pool2d(*tensors, **problem.options)
    assert_accurate(output, exact(problem, tensors), scale=2)
    assert_same_layout(output, stock(*tensors, **problem.options))


@by_large
def test_large_problems_agree_with_float64_and_run_winograd(capability, problem):
    tensors = problem.tensors()
    output = conv2d_pool2d(*tensors, **problem.options)
    assert_accurate(output, exact(problem, tensors), scale=2)
    assert not torch.equal(output, without_winograd(problem, tensors))


@by_large
def test_one_and_two_intraop_threads_agree_bit_for_bit(capability, intraop_threads, problem):
    tensors = problem.tensors()
    intraop_threads(1)
    one = conv2d_pool2d(*tensors, **problem.options)
    intraop_threads(2)
    assert torch.equal(conv2d_pool2d(*tensors, **problem.options), one)


def test_eight_python_threads_agree_with_one(capability):
    work = [(problem, problem.tensors(seed)) for seed in range(3) for problem in LARGE.values()]

    def run(item):
        return conv2d_pool2d(*item[1], **item[0].options)

    alone = list(map(run, work))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, work))
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_kept_weights_follow_every_change(capability, memory_format):
    input, other = torch.randn(2, 1, 32, 14, 14)
    weight = torch.randn(48, 32, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def train():
        conv2d_pool2d(input, weight).sum().backward()
        optimizer.step()

    changes = [train, lambda: weight.data.mul_(1.5), lambda: weight.data[-1, -1, -1, -1:].fill_(3.0)]
    for change in changes:
        change()
        with torch.inference_mode():
            fresh = conv2d_pool2d(other, weight.clone())  # elsewhere in memory: nothing is kept of it
            assert all(torch.equal(conv2d_pool2d(other, weight), fresh) for _ in range(4))


def test_kept_weights_follow_the_batch_normalisation_folded_into_them(capability):
    conv, norm = nn.Conv2d(32, 32, 3).eval(), nn.BatchNorm2d(32).eval()
    block = fastvision.convert(nn.Sequential(conv, norm, nn.ReLU()))
    input = torch.randn(1, 32, 14, 14)
    with torch.inference_mode():
        for _ in range(3):
            norm.running_var.mul_(1.7)
            norm.weight.data.mul_(0.9)
            expected = torch.relu(norm(conv(input)))
            block.load_state_dict(nn.Sequential(conv, norm).state_dict())
            for _ in range(3):
                torch.testing.assert_close(block(input), expected, rtol=1e-4, atol=1e-4)


def test_kept_weights_of_many_layers_make_room(capability):
    input = torch.randn(1, 128, 8, 8)
    weights = torch.randn(24, 128, 128, 3, 3).unbind()  # 3 MB each, 70 MB in all
    with torch.inference_mode():
        rounds = [[conv2d_pool2d(input, weight) for weight in weights] for _ in range(3)]
    assert all(torch.equal(a, b) for later in rounds[1:] for a, b in zip(rounds[0], later, strict=True))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("channels", "size"), [(32, 33), (64, 20), (256, 13)])
def test_rms_error_of_large_tiles(capability, channels, size, pool):
    problem = Problem(batch=1, channels=channels, height=size, width=size, out_channels=64, options=POOLS[pool])
    assert rms_in_multiples_of_stocks(problem) <= 2.3 * RMS_LIMITS[capability]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rms_error_of_small_tiles(capability, channels):
    # Of 9 or 27 products: no more than a few roundings, of which the transforms add some.
    problem = Problem(batch=1, channels=channels, height=64, width=64, out_channels=32)
    assert rms_in_multiples_of_stocks(problem) <= 1.5 * RMS_LIMITS[capability]


def rms_in_multiples_of_stocks(problem):
    ours = stocks = 0.0
    for seed in range(3):
        tensors = problem.tensors(seed)
        expected = stock(*in_double(tensors), **problem.options)
        ours += rms(conv2d_pool2d(*tensors, **problem.options) - expected)
        stocks += rms(stock(*tensors, **problem.options) - expected)
    return ours / stocks


@by_large
def test_selected_elements_are_the_outputs(capability, problem):
    """The selection names an element of each window whose value the output is."""
    options = problem.options | {"activation": "relu", "pool": "max"}
    options |= {"pool_kernel_size": 2, "pool_stride": 2, "pool_padding": 0}
    problem = Problem(**(vars(problem) | {"options": options}))
    tensors = problem.tensors()
    output, selection = torch.ops.fastvision.conv2d_pool2d_with_selection(*tensors, **raw_options(problem))
    sums = stock(*in_double(tensors), **options | {"pool": "none", "activation": "none"})
    windows, chosen, alive = two_by_two_windows(sums, selection)
    assert_accurate(output, chosen.where(alive, 0.0), scale=2)
    assert (windows.amax(-1)[~alive] < 1e-4).all()


@by_large
def test_gradients_are_those_of_the_selected_elements(capability, problem):
    """Whatever rounding made of near-ties: forward and backward agree on it, and the gradients are exact given that."""
    options = problem.options | {"pool_kernel_size": 2, "pool_stride": 2, "pool_padding": 0}
    problem = Problem(**(vars(problem) | {"options": options}))
    tensors, raw = problem.tensors(), raw_options(problem)
    output, selection = torch.ops.fastvision.conv2d_pool2d_with_selection(*tensors, **raw)
    grad_output = torch.randn_like(output)
    actual = torch.ops.fastvision.conv2d_pool2d_backward(
        grad_output, selection, *tensors[:2], [True, True, True], **raw
    )
    leaves = [t.requires_grad_() for t in in_double(tensors)]
    sums = stock(*leaves, **options | {"pool": "none", "activation": "none"})
    _, chosen, alive = two_by_two_windows(sums, selection)
    expected = torch.autograd.grad(chosen, leaves, grad_output.double().where(alive, 0.0))
    for a, e in zip(actual, expected, strict=True):
        assert_accurate(a, e, scale=2 * max(1.0, e.abs().max().item()))


@by_large
@pytest.mark.parametrize("pool", ["avg", "none"])
def test_gradients_without_a_choice_agree_with_float64(capability, problem, pool):
    options = {"pool_kernel_size": 2, "pool_stride": 2} | problem.options | {"pool": pool, "activation": "none"}
    problem = Problem(**(vars(problem) | {"options": options}))
    tensors = problem.tensors()
    grad_output = torch.randn(stock(*tensors, **options).shape)
    expected = gradients(stock, problem, in_double(tensors), grad_output)
    for a, e in zip(gradients(conv2d_pool2d, problem, tensors, grad_output), expected, strict=True):
        assert_accurate(a, e, scale=2 * max(1.0, e.abs().max().item()))


def test_rms_error_of_the_input_gradient(capability):
    options = {"activation": "none", "pool": "none", "padding": 1}
    problem = Problem(channels=64, height=24, width=24, out_channels=64, options=options)
    tensors = problem.tensors()
    grad_output = torch.randn(stock(*tensors, **options).shape, generator=torch.Generator().manual_seed(0))
    (exact_gradient, *_), (ours, *_), (stocks, *_) = (
        gradients(function, problem, t, grad_output)
        for function, t in ((stock, in_double(tensors)), (conv2d_pool2d, tensors), (stock, tensors))
    )
    assert rms(ours - exact_gradient) <= 2.3 * RMS_LIMITS[capability] * rms(stocks - exact_gradient)
    with winograd_forbidden():
        direct, *_ = gradients(conv2d_pool2d, problem, tensors, grad_output)
    assert not torch.equal(ours, direct)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nonfinite_input_reaches_what_stock_gives_it_and_no_other_tile(capability, channels, pool, value):
    problem = Problem(batch=2, channels=channels, height=24, width=24, options={"padding": 1, **POOLS[pool]})
    tensors = problem.tensors()
    tensors[0][1, 1, 9, 14] = value
    output, expected = conv2d_pool2d(*tensors, **problem.options), stock(*tensors, **problem.options)
    assert not torch.isfinite(output[~torch.isfinite(expected)]).any()
    assert torch.isfinite(output[0]).all()
    reach = torch.zeros_like(tensors[0])
    reach[1, :, 4:16, 9:21] = torch.inf  # the tiles that see the element, and their neighbours in the kernel's reach
    far = torch.isfinite(stock(reach, tensors[1].abs(), **problem.options))
    assert far.any()
    assert_accurate(output[far], expected[far].double(), scale=2)
    assert_accurate(without_winograd(problem, tensors), expected.double())


@pytest.mark.parametrize("channels", [3, 32])
def test_nonfinite_bias_is_decided_as_by_the_direct_kernel(capability, channels):
    input, weight, bias = Problem(channels=channels, height=12, width=12).tensors()
    bias[5], bias[7] = torch.nan, torch.inf
    assert_accurate(conv2d_pool2d(input, weight, bias), stock(input, weight, bias).double(), scale=2)
    training = torch.ops.fastvision.conv2d_pool2d_with_selection
    with winograd_forbidden():
        _, expected = training(input, weight, bias)
    _, selection = training(input, weight, bias)
    assert torch.equal(selection[..., [5, 7]], expected[..., [5, 7]])


def test_switch(capability):
    assert fastvision.backends.cpu.allow_winograd is True
    problem = LARGE["images together"]
    tensors = problem.tensors()
    direct = without_winograd(problem, tensors)
    assert fastvision.backends.cpu.allow_winograd is True
    assert not torch.equal(conv2d_pool2d(*tensors, **problem.options), direct)


def test_inference_sees_every_change_of_the_weight(capability):
    torch.manual_seed(0)
    stock_layers = nn.Sequential(nn.Conv2d(32, 48, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    images = torch.randn(2, 32, 18, 18)

    def agrees():
        with torch.inference_mode():
            return torch.allclose(fast(images), stock_layers.double()(images.double()).float(), atol=1e-4)

    fast = fastvision.convert(stock_layers)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.5)
    assert agrees()
    fast(images).square().mean().backward()
    optimizer.step()
    assert not agrees()
    stock_layers.load_state_dict(fast.state_dict())
    assert agrees()
    fast[0].weight.data.mul_(-1)  # which no version counter shows
    assert not agrees()
    stock_layers.load_state_dict(fast.state_dict())
    assert agrees()
