"""Max and average pooling alone; behind a convolution they are part of `conv2d_pool2d`.

On the CPU, stock's kernels for contiguous images take one element after the other, and ask for the place of each
maximum, too.
"""

import torch
from torch import Tensor

from fastvision.ops.conv import IntPair

_operator = torch.ops.fastvision.max_pool2d.default
_operator_with_indices = torch.ops.fastvision.max_pool2d_with_indices.default
_average = torch.ops.fastvision.avg_pool2d.default
_average_reference = torch.ops.fastvision.avg_pool2d_reference.default
_reference = torch.ops.fastvision.max_pool2d_reference.default
_reference_with_indices = torch.ops.fastvision.max_pool2d_with_indices_reference.default


def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`torch.nn.functional.max_pool2d`: the same arguments and results, the places of equal maxima and of NaN included.

    Args:
        input: shape (batch, channels, height, width) or (channels, height, width). Contiguous images on the CPU in
            float32, bfloat16 and float16 have a kernel, all else runs the reference. So do indices, which gradients
            need, of windows more than two columns apart.
        kernel_size, stride, padding: of the windows: one number, or one each for rows and columns. stride None is
            kernel_size.
        dilation: 1 has a kernel.
        ceil_mode: whether windows may end beyond the padded image.
        return_indices: whether the second result is wanted.

    Returns:
        The maxima, input's dtype and memory format; with return_indices also where they are in their channel's height *
        width elements, int64.

    Raises:
        RuntimeError: what torch.nn.functional.max_pool2d raises.
    """
    run = _operator_with_indices if return_indices else _operator
    return run(input, kernel_size, () if stride is None else stride, padding, dilation, ceil_mode)


def max_pool2d_reference(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """What `max_pool2d` computes, by stock PyTorch calls alone: same arguments, any dtype, layout and device."""
    run = _reference_with_indices if return_indices else _reference
    return run(input, kernel_size, () if stride is None else stride, padding, dilation, ceil_mode)


def avg_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool2d`: the same arguments and, but for rounding, results.

    Args:
        input: shape (batch, channels, height, width) or (channels, height, width). Contiguous images on the CPU in
            float32, bfloat16 and float16 (summed in float32) have a kernel; all else, and what needs gradients, runs
            the reference.
        kernel_size, stride, padding: of the windows: one number, or one each for rows and columns. stride None is
            kernel_size.
        ceil_mode: whether windows may end beyond the padded image.
        count_include_pad: whether padding counts in what a sum is divided by.
        divisor_override: what every sum is divided by instead.

    Returns:
        The averages, input's dtype and memory format.

    Raises:
        RuntimeError: what torch.nn.functional.avg_pool2d raises.
    """
    stride = () if stride is None else stride
    return _average(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool2d_reference(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """What `avg_pool2d` computes, by stock PyTorch calls alone: same arguments, any dtype, layout and device."""
    stride = () if stride is None else stride
    return _average_reference(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
