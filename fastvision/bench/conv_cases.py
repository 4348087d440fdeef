"""What the conv family is measured on."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

import fastvision.nn
from fastvision.bench.limits import Read

Mode = Literal["infer", "train"]


@dataclass(frozen=True)
class ConvCase:
    """2-D convolution + bias + ReLU + pooling of square images, sizes in pixels."""

    batch: int
    in_channels: int
    out_channels: int
    size: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 0
    pool: Literal["max", "avg", "none"] = "max"
    pool_kernel_size: int = 2
    pool_stride: int = 2
    pool_padding: int = 0
    groups: int = 1
    channels_last: bool = False  # images and weights of every peer, else contiguous
    origin: str = ""  # the network it comes from
    modes: tuple[Mode, ...] = ("infer",)
    quick: bool = False  # one of the few of `bench all --quick`

    @property
    def name(self) -> str:
        """For example 'b32 3>32 @224'; what differs from a 3x3 kernel and 2x2 max-pooling is spelled out."""
        parts = [f"b{self.batch} {self.in_channels}>{self.out_channels} @{self.size}"]
        if (self.kernel_size, self.stride) != (3, 1):
            stride = f"/{self.stride}" if self.stride != 1 else ""
            parts.append(f"{self.kernel_size}x{self.kernel_size}{stride}")
        if self.groups != 1:
            parts.append("depthwise" if self.is_depthwise else f"groups {self.groups}")
        if self.padding:
            parts.append(f"pad {self.padding}")
        if self.pool == "none":
            parts.append("no pool")
        elif (self.pool, self.pool_kernel_size, self.pool_stride) != ("max", 2, 2):
            parts.append(f"{self.pool} {self.pool_kernel_size}/{self.pool_stride}")
        if self.channels_last:
            parts.append("channels_last")
        if self.origin:
            parts.append(f"({self.origin})")
        return " ".join(parts)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.groups == self.in_channels > 1

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out_channels, in_channels / groups, kernel_size, kernel_size)."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size)

    @property
    def input_is_image(self) -> bool:
        """Grey or RGB: training needs no gradient of it."""
        return self.in_channels <= 3

    @property
    def conv_size(self) -> int:
        """Height and width of the convolution's output."""
        return (self.size + 2 * self.padding - self.kernel_size) // self.stride + 1

    @property
    def out_size(self) -> int:
        """Height and width of the pooled output."""
        if self.pool == "none":
            return self.conv_size
        return (self.conv_size + 2 * self.pool_padding - self.pool_kernel_size) // self.pool_stride + 1

    def flops(self, mode: Mode) -> int:
        """Floating-point operations of the convolution, two per multiply-add.

        Convolution outputs that no pooling window covers do not count. Training counts as many operations again for
        the gradient of the weight, and for that of the input where it is needed: a dense count, although pooling and
        ReLU make most of the gradient zero, which kernels may use.
        """
        passes = 1 if mode == "infer" else 2 if self.input_is_image else 3
        outputs_per_channel = self.batch * self._covered_size() ** 2
        return passes * 2 * outputs_per_channel * math.prod(self.weight_shape)

    def reads(self, mode: Mode, element_size: int) -> tuple[Read, ...]:
        """The tensors that one call has to read or write, biases not counted.

        Inference: image, weight and output, no convolution's output in between. Training has the gradients of output
        and weight besides, that of the input where it is needed, and reads the input, and the weight for that gradient,
        a second time.
        """
        image = self.batch * self.in_channels * self.size**2 * element_size
        weight = math.prod(self.weight_shape) * element_size
        output = self.batch * self.out_channels * self.out_size**2 * element_size
        once = image + weight + output
        if mode == "infer":
            return (Read(once, 1, once),)
        if self.input_is_image:
            once += output + weight
            return (Read(once, 1, once), Read(image, 1, once))
        once *= 2
        return (Read(once, 1, once), Read(image + weight, 1, once))

    def _covered_size(self) -> int:
        """How many rows (as many columns) of the convolution's output some pooling window covers."""
        if self.pool == "none":
            return self.conv_size
        starts = (i * self.pool_stride - self.pool_padding for i in range(self.out_size))
        covered = {row for start in starts for row in range(start, start + self.pool_kernel_size)}
        return len(covered & set(range(self.conv_size)))

    @property
    def _arguments(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding)

    def stock_module(self, dtype: torch.dtype) -> nn.Sequential:
        """The layers as a user of torch.nn writes them."""
        conv = nn.Conv2d(*self._arguments, groups=self.groups, dtype=dtype)
        if self.pool == "none":
            return nn.Sequential(conv, nn.ReLU())
        pool = nn.MaxPool2d if self.pool == "max" else nn.AvgPool2d
        return nn.Sequential(conv, nn.ReLU(), pool(self.pool_kernel_size, self.pool_stride, self.pool_padding))

    def fastvision_module(self, dtype: torch.dtype) -> nn.Module:
        """The same layers as one fastvision module."""
        if self.pool == "none":
            return fastvision.nn.ConvReLU2d(*self._arguments, groups=self.groups, dtype=dtype)
        module = fastvision.nn.ConvReLUMaxPool2d if self.pool == "max" else fastvision.nn.ConvReLUAvgPool2d
        return module(
            *self._arguments,
            groups=self.groups,
            pool_kernel_size=self.pool_kernel_size,
            pool_stride=self.pool_stride,
            pool_padding=self.pool_padding,
            dtype=dtype,
        )


_BOTH: tuple[Mode, ...] = ("infer", "train")

CONV_CASES = (
    ConvCase(1, 1, 32, 28, quick=True),
    ConvCase(1, 3, 32, 224, quick=True),
    ConvCase(1, 32, 64, 111, quick=True),
    ConvCase(1, 64, 128, 54),
    ConvCase(1, 128, 256, 28),
    ConvCase(32, 3, 32, 224, modes=_BOTH),
    ConvCase(32, 32, 64, 111, modes=_BOTH),
    ConvCase(32, 64, 128, 54, modes=_BOTH, quick=True),
    ConvCase(1, 32, 64, 111, pool="avg"),
    ConvCase(1, 3, 64, 224, padding=1, pool="none", origin="VGG"),
    ConvCase(1, 64, 64, 224, padding=1, origin="VGG"),
    ConvCase(1, 128, 256, 56, padding=1, pool="none", origin="VGG", quick=True),
    ConvCase(1, 256, 256, 56, padding=1, origin="VGG"),
    ConvCase(1, 3, 64, 224, 7, 2, 3, "max", 3, 2, 1, origin="ResNet stem", quick=True),
    ConvCase(8, 3, 64, 224, 7, 2, 3, "max", 3, 2, 1, origin="ResNet stem"),
    ConvCase(1, 256, 64, 56, 1, pool="none", origin="ResNet", quick=True),
    ConvCase(1, 64, 192, 27, 5, padding=2, pool_kernel_size=3, origin="AlexNet"),
    ConvCase(1, 128, 128, 56, padding=1, pool="none", groups=32, origin="ResNeXt"),
    ConvCase(1, 64, 3, 128, padding=1, pool="none", origin="decoder"),
    ConvCase(1, 32, 1, 64, 5, padding=2, pool="none", origin="SRCNN", quick=True),
)
