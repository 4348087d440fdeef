"""2-D convolution + bias + activation + pooling as one operator.

    y = pool(activation(conv2d(x, w) + b))

The convolution is the cross-correlation of `torch.nn.functional.conv2d`, the pools are those of
`max_pool2d` and `avg_pool2d`. The convolution's output never exists in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

IntPair = int | Sequence[int]

_operator = torch.ops.fastvision.conv2d_pool2d.default
_reference = torch.ops.fastvision.conv2d_pool2d_reference.default
_operator_with_norm = torch.ops.fastvision.conv2d_batch_norm_pool2d.default
_reference_with_norm = torch.ops.fastvision.conv2d_batch_norm_pool2d_reference.default


def pair(value: IntPair) -> Sequence[int]:
    """One integer stands for both spatial dimensions, as everywhere in torch.nn."""
    if isinstance(value, int):
        return (value, value)
    return (value[0], value[0]) if len(value) == 1 else value


def explicit_padding(padding: IntPair | str, kernel_size: Sequence[int], stride: IntPair, dilation: IntPair):
    """Padding as the operator takes it: (h, w), or (top, bottom, left, right) where 'same' is lopsided.

    Args:
        padding: zeros on each side: an int, a pair (h, w), 'valid' (none) or 'same' (output as large as the input).
        kernel_size: (kernel_h, kernel_w).
        stride: of the convolution; 'same' needs 1.
        dilation: of the convolution.

    Raises:
        RuntimeError: padding is 'same' with a stride other than 1.
        ValueError: padding is another string.
    """
    if not isinstance(padding, str):
        return pair(padding)
    if padding == "valid":
        return (0, 0)
    if padding != "same":
        raise ValueError(f"padding: expected an int, a pair, 'valid' or 'same', got {padding!r}")
    if tuple(pair(stride)) != (1, 1):
        raise RuntimeError(f"padding: 'same' expects stride 1, got stride {stride!r}")
    if len(kernel_size) != 2 or len(pair(dilation)) != 2:
        return (0, 0)  # the operator refuses what is no pair, by name
    total_h, total_w = (d * (k - 1) for d, k in zip(pair(dilation), kernel_size, strict=True))
    if total_h % 2 == 0 and total_w % 2 == 0:
        return (total_h // 2, total_w // 2)
    # As torch: the odd zero goes to the bottom and the right.
    return (total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2)


def conv2d_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    activation: str = "relu",
    pool: str = "max",
    pool_kernel_size: IntPair = 2,
    pool_stride: IntPair | None = None,
    pool_padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Convolution, bias, activation and pooling in one pass.

    Args:
        input: images, shape (batch, in_channels, height, width) or (in_channels, height, width); any strides.
            float32, bfloat16 and float16 have kernels (which compute in float32), other dtypes run the reference.
        weight: shape (out_channels, in_channels / groups, kernel_h, kernel_w), of input's dtype and device.
        bias: shape (out_channels), or None.
        stride, padding, dilation, groups: as torch.nn.functional.conv2d; padding in pixels, or (top, bottom, left,
            right), 'same' or 'valid'.
        activation: 'relu', 'none', 'relu6', 'silu' or 'hardswish'. For gradients the last three are stock's, and with a
            pool the reference runs.
        pool: 'max', 'avg' or 'none'.
        pool_kernel_size, pool_stride, pool_padding, ceil_mode, count_include_pad: as torch.nn.functional.max_pool2d
            and avg_pool2d; pool_stride None is pool_kernel_size.

    Returns:
        Shape (batch, out_channels, out_h, out_w), without the batch where input has none; input's dtype; channels_last
        if input or weight is.

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit each other, or an option has a value that stock PyTorch
            refuses. The message names the argument.
    """
    convolution = (pair(stride), explicit_padding(padding, weight.shape[2:], stride, dilation), pair(dilation), groups)
    pooling = _pool_arguments(pool_kernel_size, pool_stride, pool_padding, ceil_mode, count_include_pad)
    return _operator(input, weight, bias, *convolution, activation, pool, *pooling)


def conv2d_pool2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    activation: str = "relu",
    pool: str = "max",
    pool_kernel_size: IntPair = 2,
    pool_stride: IntPair | None = None,
    pool_padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """What `conv2d_pool2d` computes, by stock PyTorch calls alone: same arguments, any dtype and device."""
    convolution = (pair(stride), explicit_padding(padding, weight.shape[2:], stride, dilation), pair(dilation), groups)
    pooling = _pool_arguments(pool_kernel_size, pool_stride, pool_padding, ceil_mode, count_include_pad)
    return _reference(input, weight, bias, *convolution, activation, pool, *pooling)


def conv2d_batch_norm_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
    **options,
) -> Tensor:
    """Convolution, batch normalisation by given statistics, activation and pooling in one pass. For inference.

        y = pool(activation((conv2d(x, w) + b - mean) / sqrt(var + eps) * gamma + beta))

    The kernel folds the normalisation into the weights while it packs them. Gradients go to all tensors.

    Args:
        input, weight, bias: as of `conv2d_pool2d`, in four dimensions.
        mean, var, gamma, beta, eps: running_mean, running_var, weight, bias and eps of torch.nn.BatchNorm2d, shape
            (out_channels) each; gamma and beta may be None. Dtypes other than float32 run the reference, as folding
            would round the weights once more.
        options: stride, padding, dilation, groups, activation and what follows, by name, as of `conv2d_pool2d`.

    Returns:
        As `conv2d_pool2d`.

    Raises:
        RuntimeError: as `conv2d_pool2d`, or what torch.nn.functional.batch_norm raises.
    """
    options = _operator_options(weight, **options)
    return _operator_with_norm(input, weight, bias, mean, var, gamma, beta, eps, **options)


def conv2d_batch_norm_pool2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
    **options,
) -> Tensor:
    """What `conv2d_batch_norm_pool2d` computes, by stock PyTorch calls alone: same arguments, any dtype and device."""
    options = _operator_options(weight, **options)
    return _reference_with_norm(input, weight, bias, mean, var, gamma, beta, eps, **options)


def _operator_options(weight, stride=1, padding=0, dilation=1, pool_stride=None, **others):
    padding = explicit_padding(padding, weight.shape[2:], stride, dilation)
    pool_stride = () if pool_stride is None else pool_stride
    return {"stride": stride, "padding": padding, "dilation": dilation, "pool_stride": pool_stride, **others}


def _pool_arguments(kernel_size, stride, padding, ceil_mode, count_include_pad):
    return pair(kernel_size), () if stride is None else pair(stride), pair(padding), ceil_mode, count_include_pad
