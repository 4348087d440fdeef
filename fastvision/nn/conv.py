"""Conv2d, alone or with its activation and pooling as one module.

They are `torch.nn.Conv2d`: its parameters, initialisation, attributes and state_dict. What follows the convolution
in a model (a ReLU, a pooling layer) happens inside, in the operator `fastvision.ops.conv2d_pool2d`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvision._calls import OperatorStep, PreparedCall, Unpickled, is_recorded
from fastvision._parameters import tensor_of
from fastvision.nn.scripting import NotScriptable
from fastvision.ops.conv import IntPair, explicit_padding

_PARAMETERS = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var")
_operator = torch.ops.fastvision.conv2d_pool2d.default
_operator_with_norm = torch.ops.fastvision.conv2d_batch_norm_pool2d.default


def both_axes(value: IntPair) -> tuple[int, ...]:
    """One number stands for both spatial dimensions, alone or in a sequence, as ATen reads it."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    return values * 2 if len(values) == 1 else values


def convolution_options(convolution: nn.Conv2d) -> dict[str, Any]:
    """The operator's options of a Conv2d, without a padding that is decided at each call."""
    padding = convolution.padding
    padded_before = convolution.padding_mode != "zeros"
    return {
        "stride": both_axes(convolution.stride),
        "padding": (0, 0) if padded_before or isinstance(padding, str) else both_axes(padding),
        "dilation": both_axes(convolution.dilation),
        "groups": convolution.groups,
    }


def options_alone(convolution: nn.Conv2d) -> dict[str, Any]:
    """The operator's options of a Conv2d behind which nothing is fused."""
    return {**convolution_options(convolution), "activation": "none", "pool": "none"}


def pool_options(kernel_size: IntPair, stride: IntPair | None, padding: IntPair, ceil_mode: bool) -> dict[str, Any]:
    """The operator's options that both kinds of pooling share."""
    kernel = both_axes(kernel_size)
    step = () if stride is None else both_axes(stride)
    return {
        "pool_kernel_size": kernel,
        "pool_stride": () if step == kernel else step,
        "pool_padding": both_axes(padding),
        "ceil_mode": ceil_mode,
    }


class FusedConvolution(Unpickled):
    """The fused operator with the padding of `convolution` and `options` for everything else.

    With `norm`, the batch normalisation that follows the convolution, a call has its mean, variance, weight and bias
    as further arguments.
    """

    def __init__(self, convolution: nn.Conv2d, options: dict[str, Any], norm: nn.BatchNorm2d | None = None) -> None:
        self._convolution, self._norm = convolution, norm
        self._operator = _operator if norm is None else _operator_with_norm
        self._options = options if norm is None else {**options, "eps": norm.eps}
        self._call = PreparedCall(self._operator, 3 if norm is None else 7, **self._options)
        self._pads = convolution.padding_mode != "zeros" or isinstance(convolution.padding, str)
        self.on_module: Callable[[nn.Module, Tensor], Tensor] | None = None

    def __call__(self, input: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        return self._pad_and_call(input, weight, *others) if self._pads else self._call(input, weight, *others)

    def of_module(
        self, attributes: dict[str, Any], otherwise: Callable[[nn.Module, Tensor], Tensor]
    ) -> Callable[[nn.Module, Tensor], Tensor]:
        """The call on the parameters of a convolution, without a norm, as of PreparedCall.of_module."""
        return otherwise if self._pads else self._call.of_module(_PARAMETERS, attributes, otherwise)

    def step(self, otherwise: Callable[[Tensor], Tensor]) -> OperatorStep | None:
        """The call on the parameters of the convolution and its norm; None where padding comes before it."""
        if self._pads:
            return None
        sources = [(self._convolution, _PARAMETERS)]
        if self._norm is not None:
            sources += [(self._norm, _STATISTICS), (self._norm, _PARAMETERS)]
        return self._call.step(otherwise, *sources, folds=self._norm is not None)

    def _pad_and_call(self, input: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        convolution = self._convolution
        if convolution.padding_mode != "zeros":
            input = F.pad(input, convolution._reversed_padding_repeated_twice, mode=convolution.padding_mode)
            return self._call(input, weight, *others)
        # From the weight's own shape, as stock: it may have been replaced by one of another kernel size.
        padding = explicit_padding(convolution.padding, weight.shape[2:], convolution.stride, convolution.dilation)
        return self._operator(input, weight, *others, **{**self._options, "padding": padding})


class _Convolution(NotScriptable, nn.Conv2d):
    """A Conv2d whose forward is a fused operator. A stock one may be given such a class."""

    _fused: FusedConvolution | None = None
    _fused_settings: dict[str, Any] | None = None
    # The attributes that the operator's options are made of.
    _SETTINGS: tuple[str, ...] = ("stride", "padding", "dilation", "groups", "padding_mode")

    def _operator_options(self) -> dict[str, Any]:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or self._fused is None:
            return self._forward(input)
        return self._fused.on_module(self, input)

    def _forward(self, input: Tensor) -> Tensor:
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        fused = self._fused
        if fused is None or settings != self._fused_settings:  # an attribute was changed
            fused = FusedConvolution(self, self._operator_options())
            if not torch.compiler.is_compiling():
                fused.on_module = fused.of_module(settings, type(self)._forward)
                self._fused, self._fused_settings = fused, settings
        return fused(input, tensor_of(self, "weight"), tensor_of(self, "bias"))


class Conv2d(_Convolution):
    """`torch.nn.Conv2d`, faster: its arguments, attributes, parameters, initialisation and state_dict.

    Shapes: as of `torch.nn.Conv2d`. Dtypes: as of `fastvision.ops.conv2d_pool2d`. Under torch.compile, torch.export and
    torch.jit.trace it is stock's.

    Raises:
        RuntimeError: what torch.nn.Conv2d raises.
    """

    def _operator_options(self) -> dict[str, Any]:
        return options_alone(self)

    def forward(self, input: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, input) if is_recorded() else super().forward(input)

    def step(self) -> OperatorStep | None:
        """The forward for a sequence of steps; None where padding comes before it."""
        return FusedConvolution(self, self._operator_options()).step(self.forward)


class ConvReLU2d(_Convolution):
    """2-D convolution and ReLU: `nn.ReLU()(nn.Conv2d(...)(input))` as one operator.

    Arguments, parameters, initialisation and state_dict are those of `torch.nn.Conv2d`; the same seed gives the same
    weights.

    Shapes: input (batch, in_channels, height, width) or (in_channels, height, width); output as of `torch.nn.Conv2d`.
    Dtypes: as of `fastvision.ops.conv2d_pool2d`.

    Raises:
        RuntimeError: the input does not fit the weight (channels, dtype, device, kernel larger than the image), or
            an option has a value that stock PyTorch refuses. The message names the argument.
    """

    def _operator_options(self) -> dict[str, Any]:
        return {**convolution_options(self), "pool": "none"}


class _ConvReLUPool2d(ConvReLU2d):
    """What both kinds of pooling have in common."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        pool_kernel_size: IntPair = 2,
        pool_stride: IntPair | None = None,
        pool_padding: IntPair = 0,
        ceil_mode: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # Before the parent's constructor reads them; nn.Module takes plain attributes at any time.
        self.pool_kernel_size = pool_kernel_size
        self.pool_stride = pool_kernel_size if pool_stride is None else pool_stride
        self.pool_padding = pool_padding
        self.ceil_mode = ceil_mode
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )

    _SETTINGS = (*ConvReLU2d._SETTINGS, "pool_kernel_size", "pool_stride", "pool_padding", "ceil_mode")

    def _pool_options(self) -> dict[str, Any]:
        return pool_options(self.pool_kernel_size, self.pool_stride, self.pool_padding, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, pool_kernel_size={self.pool_kernel_size}, pool_stride={self.pool_stride}, "
            f"pool_padding={self.pool_padding}, ceil_mode={self.ceil_mode}"
        )


class ConvReLUMaxPool2d(_ConvReLUPool2d):
    """2-D convolution, ReLU and max-pooling: `nn.MaxPool2d(...)(nn.ReLU()(nn.Conv2d(...)(input)))` as one operator.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as of `torch.nn.Conv2d`.
        pool_kernel_size, pool_stride, pool_padding, ceil_mode: as `kernel_size`, `stride`, `padding` and `ceil_mode`
            of `torch.nn.MaxPool2d`, in pixels of the convolution's output; pool_stride None is pool_kernel_size.

    Parameters, initialisation and state_dict are those of `torch.nn.Conv2d`; the same seed gives the same weights.

    Shapes: input (batch, in_channels, height, width) or (in_channels, height, width); output as of
    `torch.nn.MaxPool2d` on the convolution's output. Dtypes: as of `fastvision.ops.conv2d_pool2d`.

    Raises:
        RuntimeError: at the call, where the input does not fit the weight or an option has a value that stock PyTorch
            refuses, such as a pool_padding above half of pool_kernel_size. The message names the argument.
    """

    def _operator_options(self) -> dict[str, Any]:
        return {**convolution_options(self), **self._pool_options()}


class ConvReLUAvgPool2d(_ConvReLUPool2d):
    """2-D convolution, ReLU and average-pooling: `nn.AvgPool2d(...)(nn.ReLU()(nn.Conv2d(...)(input)))` as one operator.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as of `torch.nn.Conv2d`.
        pool_kernel_size, pool_stride, pool_padding, ceil_mode, count_include_pad: as `kernel_size`, `stride`,
            `padding`, `ceil_mode` and `count_include_pad` of `torch.nn.AvgPool2d`, in pixels of the convolution's
            output; pool_stride None is pool_kernel_size.

    Parameters, initialisation and state_dict are those of `torch.nn.Conv2d`; the same seed gives the same weights.

    Shapes: input (batch, in_channels, height, width) or (in_channels, height, width); output as of
    `torch.nn.AvgPool2d` on the convolution's output. Dtypes: as of `fastvision.ops.conv2d_pool2d`.

    Raises:
        RuntimeError: at the call, where the input does not fit the weight or an option has a value that stock PyTorch
            refuses, such as a pool_padding above half of pool_kernel_size. The message names the argument.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        pool_kernel_size: IntPair = 2,
        pool_stride: IntPair | None = None,
        pool_padding: IntPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.count_include_pad = count_include_pad
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            pool_kernel_size,
            pool_stride,
            pool_padding,
            ceil_mode,
            device,
            dtype,
        )

    _SETTINGS = (*_ConvReLUPool2d._SETTINGS, "count_include_pad")

    def _operator_options(self) -> dict[str, Any]:
        options = {**convolution_options(self), **self._pool_options()}
        return {**options, "pool": "avg", "count_include_pad": self.count_include_pad}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, count_include_pad={self.count_include_pad}"
