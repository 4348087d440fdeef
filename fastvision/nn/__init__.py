"""Modules with the signatures, attributes and state_dict of torch.nn's."""

from fastvision.nn.conv import ConvReLU2d, ConvReLUAvgPool2d, ConvReLUMaxPool2d

__all__ = ["ConvReLU2d", "ConvReLUAvgPool2d", "ConvReLUMaxPool2d"]
