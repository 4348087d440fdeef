"""A fully connected layer and its activation as one operator.

    y = activation(x w^T + b)

With few rows, stock's matrix product waits for weights that it reads in an order made for many.
"""

import torch
from torch import Tensor

_operator = torch.ops.fastvision.linear.default
_reference = torch.ops.fastvision.linear_reference.default
_quantized = torch.ops.fastvision.linear_quantized.default
_quantized_reference = torch.ops.fastvision.linear_quantized_reference.default


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none") -> Tensor:
    """`torch.nn.functional.linear`, and the activation after it, in one pass.

    Args:
        input: shape (..., in_features), any strides. In float32 up to 8 rows have a kernel, with weights of 16 MiB or
            more up to 32, and with AVX-512 on AMD's processors, where stock's products do without it, any number. So
            have the gradients: of weights of 32 MiB or more, of inputs of many features, and there of all but small
            layers. All else runs the reference, of weights of 1 MiB or more with gradients in kept memory.
        weight: shape (out_features, in_features), of input's dtype and device.
        bias: shape (out_features), or None.
        activation: 'none' or 'relu'.

    Returns:
        Shape (..., out_features), input's dtype.

    Raises:
        RuntimeError: activation is another string, or what torch.nn.functional.linear raises.
    """
    return _operator(input, weight, bias, activation=activation)


def linear_reference(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none") -> Tensor:
    """What `linear` computes, by stock PyTorch calls alone: same arguments, any dtype and device."""
    return _reference(input, weight, bias, activation=activation)


def linear_quantized(
    input: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, *, activation: str = "none"
) -> Tensor:
    """`linear` in inference, from weights in fewer bits: a half or a quarter of the bytes to read.

    Args:
        input: shape (..., in_features), floating point; float32 has a kernel. It, the bias and sums keep their dtype.
        weight: shape (out_features, in_features), bfloat16 or int8.
        scale: of int8 weights a factor for each row, shape (out_features), float32; None with bfloat16.
        bias, activation: as of `linear`.

    Returns:
        Shape (..., out_features), input's dtype.

    Raises:
        RuntimeError: an argument has another dtype or shape. The message names it.
    """
    return _quantized(input, weight, scale, bias, activation=activation)


def linear_quantized_reference(
    input: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, *, activation: str = "none"
) -> Tensor:
    """What `linear_quantized` computes, by stock PyTorch calls alone: same arguments, any dtype and device."""
    return _quantized_reference(input, weight, scale, bias, activation=activation)
