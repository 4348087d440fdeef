"""Bad arguments to the conv operators: refused before native code, by name, with what was expected and what came."""

import re

import pytest
import torch
from cases import SAMPLES, stock

from fastvision.ops import conv2d_pool2d

OPS = torch.ops.fastvision
LARGEST = 2**31 - 1

X, W, B = torch.zeros(2, 4, 9, 11), torch.zeros(6, 4, 3, 3), torch.zeros(6)

BAD_TENSORS = {
    "input of 2 dimensions": (
        (X[0, 0], W, B),
        "input: expected shape (batch, channels, height, width) or (channels, height, width), got [9, 11]",
    ),
    "input of 5 dimensions": (
        (X[None], W, B),
        "input: expected shape (batch, channels, height, width) or (channels, height, width), got [1, 2, 4, 9, 11]",
    ),
    "weight of 3 dimensions": (
        (X, W[0], B),
        "weight: expected shape (out_channels, in_channels / groups, kernel_h, kernel_w), got [4, 3, 3]",
    ),
    "channels": ((X[:, :3], W, B), "input: expected 4 channels (weight [6, 4, 3, 3], groups 1), got 3"),
    "channels, unbatched": ((X[0, :3], W, B), "input: expected 4 channels (weight [6, 4, 3, 3], groups 1), got 3"),
    "dtype of weight": ((X, W.double(), B), "weight: expected the dtype of input, Float, got Double"),
    "dtype of bias": ((X, W, B.half()), "bias: expected the dtype of input, Float, got Half"),
    "device of weight": ((X, W.to("meta"), B), "weight: expected the device of input, cpu, got meta"),
    "device of bias": ((X, W, B.to("meta")), "bias: expected the device of input, cpu, got meta"),
    "length of bias": ((X, W, B[:5]), "bias: expected shape (6), got [5]"),
    "dimensions of bias": ((X, W, B[None]), "bias: expected shape (6), got [1, 6]"),
    "kernel higher than the image": (
        (X[:, :, :2], W, B),
        "weight: expected a kernel that fits the padded input (2, 11), got a dilated kernel of 3 along dimension 0",
    ),
    "kernel wider than the image": (
        (X[..., :2], W, B),
        "weight: expected a kernel that fits the padded input (9, 2), got a dilated kernel of 3 along dimension 1",
    ),
    "kernel of size zero": ((X, W[:, :, :0], B), "weight: expected a kernel that fits the padded input (9, 11)"),
}

BAD_OPTIONS = {
    "stride zero": ({"stride": 0}, f"stride: expected integers from 1 to {LARGEST}, got [0, 0]"),
    "stride of three": ({"stride": (1, 1, 1)}, "stride: expected 1 or 2 integers, got [1, 1, 1]"),
    "stride of none": ({"stride": ()}, "stride: expected 1 or 2 integers, got []"),
    "stride too large": ({"stride": 2**31}, f"stride: expected integers from 1 to {LARGEST}"),
    "padding negative": ({"padding": (0, -1)}, f"padding: expected integers from 0 to {LARGEST}, got [0, -1]"),
    "padding of three": ({"padding": (1, 1, 1)}, "padding: expected 1 or 2 integers, got [1, 1, 1]"),
    "padding of four": (
        {"padding": (0, 0, 0, -2)},
        f"padding: expected integers from 0 to {LARGEST}, got [0, 0, 0, -2]",
    ),
    "padding too large": ({"padding": 2**62}, f"padding: expected integers from 0 to {LARGEST}"),
    "dilation zero": ({"dilation": (0, 1)}, f"dilation: expected integers from 1 to {LARGEST}, got [0, 1]"),
    "dilated too far": (
        {"dilation": 5},
        "weight: expected a kernel that fits the padded input (9, 11), got a dilated kernel of 11 along dimension 0",
    ),
    "groups zero": ({"groups": 0}, f"groups: expected integers from 1 to {LARGEST}, got [0]"),
    "groups of channels": ({"groups": 2}, "input: expected 8 channels (weight [6, 4, 3, 3], groups 2), got 4"),
    "activation": (
        {"activation": "tanh"},
        "activation: expected 'none', 'relu', 'relu6', 'silu' or 'hardswish', got 'tanh'",
    ),
    "pool": ({"pool": "min"}, "pool: expected 'none', 'max' or 'avg', got 'min'"),
    "window of zero": ({"pool_kernel_size": 0}, f"pool_kernel_size: expected integers from 1 to {LARGEST}, got [0, 0]"),
    "window too large": ({"pool_kernel_size": 2**40}, f"pool_kernel_size: expected integers from 1 to {LARGEST}"),
    "window of three": ({"pool_kernel_size": (2, 2, 2)}, "pool_kernel_size: expected 1 or 2 integers, got [2, 2, 2]"),
    "window beyond the image": (
        {"pool_kernel_size": (8, 2)},
        "pool_kernel_size: expected a window that fits the convolution's output (7, 9), got [8, 2]",
    ),
    "window far beyond the image, in ceil mode": (
        {"pool_kernel_size": 30, "pool_stride": 2, "ceil_mode": True},
        "pool_kernel_size: expected a window that fits the convolution's output (7, 9), got [30, 30]",
    ),
    "pool stride zero": ({"pool_stride": (1, 0)}, f"pool_stride: expected integers from 1 to {LARGEST}, got [1, 0]"),
    "pool padding negative": (
        {"pool_padding": -1},
        f"pool_padding: expected integers from 0 to {LARGEST}, got [-1, -1]",
    ),
    "pool padding large": (
        {"pool_kernel_size": 3, "pool_padding": 2},
        "pool_padding: expected at most half of pool_kernel_size [3, 3], got [2, 2]",
    ),
}


def refuses(message):
    return pytest.raises(RuntimeError, match="fastvision::conv2d_pool2d: " + re.escape(message))


@pytest.mark.parametrize(("tensors", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
@pytest.mark.parametrize("training", [False, True])
def test_tensors(tensors, message, training):
    input, *parameters = tensors
    with refuses(message):
        conv2d_pool2d(input.clone().requires_grad_(training), *parameters)


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_options(options, message, training):
    with refuses(message):
        conv2d_pool2d(X.clone().requires_grad_(training), W, B, **options)


def test_groups_that_do_not_divide_the_output_channels():
    with refuses("weight: expected out_channels divisible by groups 2, got [5, 2, 3, 3]"):
        conv2d_pool2d(X, torch.zeros(5, 2, 3, 3), groups=2)


def test_padding_by_name():
    with pytest.raises(ValueError, match=r"padding: expected an int, a pair, 'valid' or 'same', got 'full'"):
        conv2d_pool2d(X, W, padding="full")
    with pytest.raises(RuntimeError, match=r"padding: 'same' expects stride 1, got stride 2"):
        conv2d_pool2d(X, W, padding="same", stride=2)
    with refuses("weight: expected shape (out_channels, in_channels / groups, kernel_h, kernel_w), got [6, 4, 3]"):
        conv2d_pool2d(X, W[..., 0], padding="same")


@pytest.mark.parametrize("arguments", [(None, W), (X, None), (X.numpy(), W), (X, W, 0.0)])
def test_what_is_no_tensor(arguments):
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        conv2d_pool2d(*arguments)


def test_window_that_does_not_fit_is_refused_as_by_stock():
    for size, options in {
        (2, 2): {"pool_kernel_size": 3, "pool_stride": 2},
        (1, 1): {"pool_kernel_size": 3, "pool_stride": 2, "ceil_mode": True},
        (1, 5): {"pool_kernel_size": (2, 1), "pool_stride": 3},
    }.items():
        input, weight = torch.zeros(1, 8, *size), torch.zeros(8, 8, 1, 1)
        with pytest.raises(RuntimeError, match="Output size is too small"):
            stock(input, weight, **options)
        with refuses("pool_kernel_size: expected a window that fits"):
            conv2d_pool2d(input, weight, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": LARGEST},
        {"padding": LARGEST, "pool_stride": LARGEST},
        {"padding": 2**30, "pool_stride": 2**30, "pool": "avg"},
    ],
)
def test_options_beyond_all_memory_are_an_error_not_a_crash(options):
    with pytest.raises(RuntimeError, match=r"memory|overflow"):
        conv2d_pool2d(X, W, B, **options)


# The operators below are for autograd, but anyone can call them: what they are given must never let them read or
# write outside of it.


def training_arguments(**changes):
    input, weight, bias = SAMPLES["plain"].tensors()
    output, selection = OPS.conv2d_pool2d_with_selection(input, weight, bias)
    arguments = {"grad_output": output, "selection": selection, "input": input, "weight": weight}
    return *(changes.get(name, value) for name, value in arguments.items()), (True, True, True)


def refuses_backward(message):
    return pytest.raises(RuntimeError, match=re.escape(f"fastvision::conv2d_pool2d_backward: {message}"))


@pytest.mark.parametrize(("tensors", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors_of_the_training_operator(tensors, message):
    with refuses(message):
        OPS.conv2d_pool2d_with_selection(*tensors)


def test_training_operators_take_batches_only():
    input, weight, bias = SAMPLES["unbatched"].tensors()
    with refuses("input: expected 4 dimensions, got 3"):
        OPS.conv2d_pool2d_with_selection(input, weight, bias)
    with refuses("input: expected 4 dimensions, got 3"):
        OPS.conv2d_pool2d_backward(*training_arguments(input=input))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float64, {}),
        (torch.float32, {"pool_kernel_size": 16}),
        (torch.float32, {"pool": "avg", "pool_kernel_size": 3}),
    ],
    ids=["dtype", "window of 256", "average of 9"],
)
def test_training_operators_without_a_kernel_say_so(dtype, options):
    input, weight = torch.zeros(1, 1, 30, 30, dtype=dtype), torch.zeros(8, 1, 1, 1, dtype=dtype)
    with refuses("no kernel for these arguments"):
        OPS.conv2d_pool2d_with_selection(input, weight, **options)


# The plain sample's output is (2, 16, 3, 4), its selection (2, 3, 4, 16).
@pytest.mark.parametrize(
    ("grad_output", "got"),
    [
        (torch.zeros(1, 16, 3, 4), "[1, 16, 3, 4] Float on cpu"),
        (torch.zeros(2, 16, 3, 3), "[2, 16, 3, 3] Float on cpu"),
        (torch.zeros(16, 3, 4), "[16, 3, 4] Float on cpu"),
        (torch.zeros(()), "[] Float on cpu"),
        (torch.zeros(2, 16, 3, 4, dtype=torch.bfloat16), "[2, 16, 3, 4] BFloat16 on cpu"),
    ],
)
def test_output_gradient_that_is_none(grad_output, got):
    with refuses_backward(f"grad_output: expected shape [2, 16, 3, 4] and dtype Float on cpu, got {got}"):
        OPS.conv2d_pool2d_backward(*training_arguments(grad_output=grad_output))


@pytest.mark.parametrize(
    "selection",
    [
        torch.zeros(0, 3, 4, 16, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 15, dtype=torch.uint8),
        torch.zeros(2, 16, 3, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 16, dtype=torch.int32),
        torch.zeros(2, 3, 4, 1, dtype=torch.uint8).expand(2, 3, 4, 16),
    ],
    ids=["empty", "short", "order", "dtype", "expanded"],
)
def test_selection_that_is_none(selection):
    with refuses_backward("selection: expected the result of conv2d_pool2d_with_selection, shape [2, 3, 4, 16]"):
        OPS.conv2d_pool2d_backward(*training_arguments(selection=selection))


@pytest.mark.parametrize("code", [4, 9, 254])
@pytest.mark.parametrize("pool", ["max", "avg", "none"])
def test_selection_with_codes_that_no_forward_pass_writes(capability, code, pool):
    input, weight, bias = SAMPLES["plain"].tensors()
    output, selection = OPS.conv2d_pool2d_with_selection(input, weight, bias, pool=pool)
    gradients = OPS.conv2d_pool2d_backward(output, selection.fill_(code), input, weight, (True, True, True), pool=pool)
    assert [g.shape for g in gradients] == [input.shape, weight.shape, bias.shape]
