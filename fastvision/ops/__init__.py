"""The operators as functions."""

from fastvision.ops.conv import conv2d_pool2d, conv2d_pool2d_reference

__all__ = ["conv2d_pool2d", "conv2d_pool2d_reference"]
