"""Layers that a plan does without calling them: successive ones in a single call of native code."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fastvision._calls import OperatorStep, PreparedCall, sequence
from fastvision._parameters import tensor_of
from fastvision.convert.runs import Run, has_hooks
from fastvision.nn import AvgPool2d, Conv2d, Linear, MaxPool2d
from fastvision.nn.conv import FusedConvolution, both_axes, options_alone

# Exact types. What their calls depend on, `unchanged` watches.
_CALLED_DIRECTLY = (Conv2d, Linear, MaxPool2d, AvgPool2d, nn.Conv2d, nn.Flatten, nn.ReLU)
_relu = PreparedCall(torch.ops.aten.relu.default, 1).step(torch.relu)
relu_in_place = PreparedCall(torch.ops.aten.relu_.default, 1).step(torch.relu_)


def is_plain(layer: nn.Module) -> bool:
    """Whether a call of the layer is the forward of its class and no more."""
    return not has_hooks(layer) and "forward" not in layer.__dict__ and layer._compiled_call_impl is None


def is_direct(layer: Callable[[Tensor], Tensor]) -> bool:
    """Whether a plan leaves out nn.Module's part of a call, 0.7 us."""
    return type(layer) in _CALLED_DIRECTLY and is_plain(layer)


def direct(layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What a call of the layer comes to; the layer itself where that is all."""
    if isinstance(layer, Run):
        return layer.step() or layer
    if not is_direct(layer):
        return layer
    if type(layer) is Linear:
        return layer.step("none") or layer.forward
    if type(layer) in (Conv2d, MaxPool2d, AvgPool2d):
        return layer.step() or layer.forward
    if type(layer) is nn.Conv2d:
        return _for_one_pixel(layer) if _may_be_linear(layer) else layer
    if type(layer) is nn.Flatten:
        dims = {"start_dim": layer.start_dim, "end_dim": layer.end_dim}
        return PreparedCall(torch.ops.aten.flatten.using_ints, 1, **dims).step(layer.forward)
    return layer.forward if layer.inplace else _relu


def _may_be_linear(convolution: nn.Conv2d) -> bool:
    return both_axes(convolution.kernel_size) == (1, 1) and convolution.groups == 1 and convolution.padding == (0, 0)


def _for_one_pixel(convolution: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    """A 1x1 convolution behind which nothing is fused: the operator's where it is a linear layer, stock's elsewhere.

    Such are the last ones of squeeze-and-excitation (Hu et al., 2018).
    """
    fused = FusedConvolution(convolution, options_alone(convolution))

    def call(input: Tensor) -> Tensor:
        if input.shape[2:] == (1, 1):
            return fused(input, tensor_of(convolution, "weight"), tensor_of(convolution, "bias"))
        return convolution(input)

    return call


def with_relu(layer: Callable[[Tensor], Tensor], follower: Callable[[Tensor], Tensor]) -> Callable | None:
    """What calls of both come to where they are Linear and ReLU; None where they are not."""
    fits = type(layer) is Linear and type(follower) is nn.ReLU and is_direct(layer) and is_direct(follower)
    return layer.step("relu") or layer.with_relu if fits else None


def direct_calls(layers: Iterable[Callable[[Tensor], Tensor]]) -> list[Callable[[Tensor], Tensor]]:
    """What calls of one layer after the other come to."""
    calls, before = [], None
    for layer in layers:
        both = with_relu(before, layer)
        if both is None:
            calls.append(direct(layer))
        else:
            calls[-1] = both
        before = layer
    return joined(calls)


def joined(calls: Iterable[Callable[[Tensor], Tensor]]) -> list[Callable[[Tensor], Tensor]]:
    """The calls in their order, successive operators in one."""
    parts, steps = [], []
    for call in (*calls, None):
        if isinstance(call, OperatorStep):
            steps.append(call)
            continue
        if steps:
            parts.append(sequence(steps))
            steps = []
        if call is not None:
            parts.append(call)
    return parts
