"""Sample problems of the conv operators, their tensors, and stock PyTorch's answer to them.

One home for what the operator's tests share: every sample runs on every instruction set, on the emulated CUDA device,
through opcheck and through the gradient checks.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from fastvision.ops.conv import explicit_padding

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# How many times stock's rms error ours may be. Stock has fused multiply-add, which rounds once where these round
# twice; the CUDA kernels also add in long chains, as other GPU kernels do.
RMS_LIMITS = {"avx512": 1.02, "avx2": 1.02, "default": 1.15, "emulated": 5.0}
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded")


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values (of 'expanded': the first image's, for all) in other strides. Gaps in memory hold NaN."""
    match layout:
        case "contiguous":
            return tensor.contiguous()
        case "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        case "transposed":
            return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        case "expanded":
            return tensor[:1].expand_as(tensor)
    *leading, height, width = tensor.shape
    surroundings = torch.full((*leading, height + 1, 2 * width + 3), torch.nan, dtype=tensor.dtype)
    view = surroundings[..., 1:, 3::2]
    return view.copy_(tensor)


@dataclass(frozen=True)
class Problem:
    """One call of conv2d_pool2d without its numbers, which `tensors` draws."""

    batch: int | None = 2  # None: unbatched
    channels: int = 3
    height: int = 9
    width: int = 11
    out_channels: int = 16
    kernel_size: tuple[int, int] = (3, 3)
    bias: bool = True
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    weight_layout: str = "contiguous"
    options: dict[str, Any] = field(default_factory=dict)

    def tensors(self, seed: int = 0, *, integers: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias; the outputs are of the order of one.

        With `integers` all values are small integers, for which every sum is exact and equal values are common.
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            if integers:
                return torch.randint(-1, 2, shape, generator=generator).to(self.dtype)
            return torch.randn(shape, generator=generator)

        group_channels = self.channels // self.options.get("groups", 1)
        input = draw(self.batch or 1, self.channels, self.height, self.width)
        weight = draw(self.out_channels, group_channels, *self.kernel_size)
        bias = draw(self.out_channels).to(self.dtype) if self.bias else None
        if not integers:
            weight /= (group_channels * self.kernel_size[0] * self.kernel_size[1]) ** 0.5
        input = lay_out(input.to(self.dtype), self.layout)
        weight = lay_out(weight.to(self.dtype), self.weight_layout)
        return input if self.batch is not None else input[0], weight, bias


SAMPLES = {
    "plain": Problem(),
    "channels_last": Problem(channels=5, layout="channels_last"),
    "tails": Problem(channels=19, out_channels=37, height=12, width=33),
    "long_sums": Problem(channels=150, out_channels=32, height=7, width=8),
    "strided_dilated": Problem(kernel_size=(2, 3), height=14, options={"stride": (2, 1), "dilation": (1, 2)}),
    "padded": Problem(kernel_size=(5, 5), options={"padding": 2}),
    "same_lopsided": Problem(kernel_size=(4, 2), options={"padding": "same"}),
    "grouped": Problem(channels=8, out_channels=32, options={"groups": 2}),
    "depthwise_pooled": Problem(channels=6, out_channels=6, options={"groups": 6}),
    "depthwise": Problem(
        channels=6, out_channels=6, height=13, width=43, options={"groups": 6, "pool": "none", "padding": (1, 2)}
    ),
    "depthwise_5x5_strided": Problem(
        channels=3,
        out_channels=3,
        height=20,
        width=45,
        kernel_size=(5, 5),
        options={"groups": 3, "pool": "none", "activation": "none", "padding": (2, 3), "stride": 2},
    ),
    "depthwise_short_rows": Problem(
        channels=5, out_channels=5, height=7, width=7, options={"groups": 5, "pool": "none", "padding": 1}
    ),
    "depthwise_channels_last": Problem(
        channels=37,
        out_channels=37,
        height=13,
        width=18,
        layout="channels_last",
        options={"groups": 37, "pool": "none", "padding": (1, 2)},
    ),
    "depthwise_channels_last_strided": Problem(
        channels=21,
        out_channels=21,
        height=11,
        width=9,
        kernel_size=(5, 5),
        layout="channels_last",
        options={"groups": 21, "pool": "none", "activation": "none", "padding": (2, 3), "stride": 2},
    ),
    "depthwise_small_planes": Problem(
        channels=35,
        out_channels=35,
        height=7,
        width=7,
        kernel_size=(7, 7),
        options={"groups": 35, "pool": "none", "padding": 3},
    ),
    "depthwise_small_planes_strided": Problem(
        channels=19,
        out_channels=19,
        height=15,
        width=31,
        options={"groups": 19, "pool": "none", "padding": 1, "stride": 2},
    ),
    # Windows without an input.
    "depthwise_of_padding": Problem(
        channels=17, out_channels=17, height=2, width=1, options={"groups": 17, "pool": "none", "padding": 4}
    ),
    "overlapping_max": Problem(
        height=13, options={"padding": 1, "pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1}
    ),
    "ceil_mode": Problem(height=10, width=12, options={"pool_stride": 3, "ceil_mode": True}),
    "average": Problem(options={"pool": "avg", "pool_padding": 1, "count_include_pad": False}),
    "average_of_nine": Problem(options={"pool": "avg", "pool_kernel_size": 3, "pool_stride": 2, "ceil_mode": True}),
    "average_of_sums": Problem(options={"pool": "avg", "activation": "none"}),
    "no_pool": Problem(options={"pool": "none"}),
    "only_convolution": Problem(options={"pool": "none", "activation": "none"}),
    "pointwise": Problem(
        channels=37, height=13, width=25, out_channels=41, kernel_size=(1, 1), options={"pool": "none"}
    ),
    "pointwise_few_outputs": Problem(
        channels=150, height=13, width=25, kernel_size=(1, 1), options={"pool": "none", "activation": "none"}
    ),
    "pointwise_strided": Problem(
        height=20, width=43, kernel_size=(1, 1), options={"pool": "none", "stride": (3, 2), "padding": 0}
    ),
    # Columns that would meet in the same sets of a cache.
    "pointwise_columns_apart": Problem(
        channels=1024,
        height=3,
        width=16,
        out_channels=33,
        kernel_size=(1, 1),
        layout="channels_last",
        options={"pool": "none"},
    ),
    "pooled_columns_apart": Problem(
        batch=1, channels=1024, height=6, width=8, out_channels=17, kernel_size=(2, 3), layout="channels_last"
    ),
    # Rows of weights that would, and a last pixel alone.
    "pointwise_rows_apart": Problem(
        channels=1024, height=5, width=13, out_channels=30, kernel_size=(1, 1), options={"pool": "none"}
    ),
    "strided_columns_apart": Problem(
        batch=1,
        channels=512,
        height=6,
        width=7,
        out_channels=33,
        options={"pool": "none", "stride": 2, "padding": 1},
    ),
    # 49 pixels: one more than a number of vectors.
    "pointwise_last_pixel": Problem(
        channels=37, height=7, width=7, out_channels=41, kernel_size=(1, 1), options={"pool": "none"}
    ),
    "one_pixel": Problem(channels=37, height=1, width=1, out_channels=41, kernel_size=(1, 1), options={"pool": "none"}),
    "one_pixel_of_padding": Problem(
        channels=19,
        height=2,
        width=3,
        out_channels=21,
        options={"pool": "none", "activation": "none", "padding": (1, 0), "stride": 2},
    ),
    "one_pixel_of_all": Problem(
        batch=8, channels=5, height=4, width=6, out_channels=30, kernel_size=(4, 6), options={"pool": "none"}
    ),
    "one_pixel_dilated": Problem(
        channels=3, height=5, width=4, kernel_size=(3, 2), options={"pool": "none", "dilation": (2, 3)}
    ),
    # More products than one chain has.
    "few_outputs": Problem(
        channels=20,
        out_channels=3,
        height=13,
        width=37,
        kernel_size=(3, 4),
        options={"pool": "none", "padding": (1, 2)},
    ),
    "few_outputs_in_place": Problem(
        channels=9, out_channels=7, height=11, width=21, kernel_size=(4, 2), options={"pool": "none", "dilation": 2}
    ),
    "few_outputs_strided": Problem(
        channels=3,
        out_channels=5,
        height=20,
        width=67,
        kernel_size=(3, 5),
        options={"pool": "none", "activation": "none", "padding": (2, 1), "stride": (1, 2), "dilation": (2, 3)},
    ),
    "few_outputs_thirds": Problem(
        channels=3, out_channels=1, height=20, width=50, kernel_size=(5, 5), options={"pool": "none", "stride": 3}
    ),
    "few_outputs_short_rows": Problem(
        channels=5, out_channels=9, height=9, width=6, kernel_size=(5, 5), options={"pool": "none", "padding": 2}
    ),
    "few_outputs_rows_of_one_vector": Problem(
        channels=5, out_channels=9, height=9, width=11, kernel_size=(5, 5), options={"pool": "none", "padding": 2}
    ),
    "few_inputs": Problem(
        channels=2,
        out_channels=37,
        height=17,
        width=35,
        kernel_size=(7, 7),
        options={"pool": "none", "stride": 2, "padding": 3},
    ),
    "small_groups": Problem(
        channels=10, out_channels=15, height=12, width=19, options={"groups": 5, "pool": "none", "padding": 1}
    ),
    "grouped_pointwise": Problem(
        channels=12, out_channels=45, height=9, width=13, kernel_size=(1, 1), options={"groups": 3, "pool": "none"}
    ),
    "depthwise_7x7": Problem(
        channels=3,
        out_channels=3,
        height=15,
        width=21,
        kernel_size=(7, 7),
        options={"groups": 3, "pool": "none", "padding": 3},
    ),
    "max_of_sums": Problem(options={"activation": "none"}),
    "no_bias": Problem(bias=False),
    "unbatched": Problem(batch=None),
    "bfloat16": Problem(dtype=torch.bfloat16),
    "float16": Problem(dtype=torch.float16, layout="channels_last"),
    "float64": Problem(dtype=torch.float64),
}

# Those that would leave more than half of each vector idle.
STOCKS = {"avx512": {"few_outputs_short_rows"}}


@st.composite
def problems(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> Problem:
    """Problems that stock PyTorch accepts, of every kind that the operator knows."""

    def choose(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    def choose_pair(*values: int) -> tuple[int, int]:
        return choose(*values), choose(*values)

    groups = choose(1, 1, 1, 2, 3)
    kernel, dilation = choose_pair(1, 2, 3, 3, 4, 5, 6, 7), choose_pair(1, 1, 1, 2)
    dtype = choose(*dtypes)
    # Stock PyTorch 2.13 crashes on some bfloat16 problems where a window lies wholly in the padding.
    wide = (0, 0) if dtype == torch.bfloat16 and kernel[1] < 4 else (0, 3)
    padding = choose(0, 1, (1, 0), wide, "same", "valid")
    stride = (1, 1) if padding == "same" else choose_pair(1, 1, 2, 3)
    pool = choose("max", "max", "avg", "none")
    pool_kernel, pool_stride = choose_pair(1, 2, 2, 3), choose(None, choose_pair(1, 2, 3))
    pool_padding = tuple(min(choose(0, 1), k // 2) for k in pool_kernel)

    def size(axis: int) -> int:
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        pads = padding if isinstance(padding, tuple) else (0, 0) if padding == "valid" else (padding, padding)
        padded = reach - 1 if padding == "same" else 2 * pads[axis]
        conv = 1 if pool == "none" else max(1, pool_kernel[axis] - 2 * pool_padding[axis])
        if dtype == torch.bfloat16 and axis == 1 and stride[axis] > 1:
            conv = max(conv, 2)  # where one column is left, stock with AMX computes rubbish
        smallest = max(1, (conv - 1) * stride[axis] + reach - padded)
        return smallest + draw(st.integers(0, 14))

    return Problem(
        batch=choose(1, 2, 3, None),
        channels=groups * choose(1, 2, 3, 4, 5, 8, 16, 17, 33),
        height=size(0),
        width=size(1),
        out_channels=groups * choose(1, 3, 8, 16, 17, 32, 40),
        kernel_size=kernel,
        bias=draw(st.booleans()),
        dtype=dtype,
        layout=choose(*LAYOUTS),
        weight_layout=choose("contiguous", "contiguous", *LAYOUTS),
        options={
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "activation": choose("relu", "relu", "none", "relu", "none", "relu6", "silu", "hardswish"),
            "pool": pool,
            "pool_kernel_size": pool_kernel,
            "pool_stride": pool_stride,
            "pool_padding": pool_padding,
            "ceil_mode": draw(st.booleans()),
            "count_include_pad": draw(st.booleans()),
        },
    )


def stock(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "relu",
    pool: str = "max",
    pool_kernel_size: Any = 2,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    **convolution: Any,
) -> Tensor:
    """conv2d_pool2d as a user of stock PyTorch writes it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        output = F.conv2d(input, weight, bias, **convolution)
    if activation != "none":
        output = getattr(F, activation)(output)
    if pool == "max":
        return F.max_pool2d(output, pool_kernel_size, pool_stride, pool_padding, ceil_mode=ceil_mode)
    if pool == "avg":
        return F.avg_pool2d(output, pool_kernel_size, pool_stride, pool_padding, ceil_mode, count_include_pad)
    return output


def raw_options(problem: Problem) -> dict[str, Any]:
    """The options as the registered operators take them: padding in pixels."""
    options = dict(problem.options)
    padding = explicit_padding(
        options.get("padding", 0), problem.kernel_size, options.get("stride", 1), options.get("dilation", 1)
    )
    return options | {"padding": padding}


def in_double(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """In float64 and contiguous: stock PyTorch 2.13 permutes the gradient of a float64 channels_last grouped weight."""
    return tuple(None if t is None else t.double().contiguous() for t in tensors)


def exact(problem: Problem, tensors: tuple[Tensor | None, ...]) -> Tensor:
    """Stock's answer in float64 from the tensors as they are, rounded to their dtype."""
    return stock(*in_double(tensors), **problem.options)


def gradients(function: Any, problem: Problem, tensors: tuple[Tensor | None, ...], grad_output: Tensor) -> list[Tensor]:
    """The gradients of input, weight and bias (where there is one)."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = function(*leaves, **problem.options)
    return list(torch.autograd.grad(output, [t for t in leaves if t is not None], grad_output.to(output.dtype)))


def rms(difference: Tensor) -> float:
    return difference.double().square().mean().sqrt().item()


def assert_same_layout(actual: Tensor, expected: Tensor) -> None:
    """Equal dtype, shape and strides; strides of dimensions of size one have no meaning."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.numel():
        strides = [(a, e) for a, e, n in zip(actual.stride(), expected.stride(), actual.shape, strict=True) if n > 1]
        assert [a for a, _ in strides] == [e for _, e in strides]


def assert_accurate(actual: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    """Agreement with a float64 result whose terms are of the order of `scale`, NaN and infinities included."""
    eps = torch.finfo(actual.dtype).eps
    tolerance = {torch.float32: 32 * eps, torch.float64: 256 * eps}.get(actual.dtype, 2 * eps)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=scale * tolerance, equal_nan=True)


def with_requires_grad(tensors: tuple[Tensor | None, ...], wanted: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Leaves that share memory with the tensors."""
    return [None if t is None else t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
