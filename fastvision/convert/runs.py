"""Finding the layers that one operator can do: Conv2d[, BatchNorm2d][, ReLU][, MaxPool2d|AvgPool2d], and
Conv2d[, BatchNorm2d], ReLU6|SiLU|Hardswish.

Layers that do nothing (Identity, Dropout in eval mode) may stand anywhere between them.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastvision._calls import OperatorStep
from fastvision._parameters import tensor_of
from fastvision.convert.layers import STOCK_LAYERS
from fastvision.nn.conv import (
    Conv2d,
    ConvReLU2d,
    FusedConvolution,
    both_axes,
    convolution_options,
    pool_options,
)
from fastvision.nn.pool import AvgPool2d, MaxPool2d
from fastvision.nn.vae import ELBOLoss, Reparameterize

# The exact types: a subclass may compute something else.
_DROPOUTS = (nn.Dropout, nn.Dropout2d)
_IDENTITIES = (nn.Identity, *_DROPOUTS)
_MAX_POOLS = (nn.MaxPool2d, MaxPool2d)
_AVG_POOLS = (nn.AvgPool2d, AvgPool2d)
_POOLS = (*_MAX_POOLS, *_AVG_POOLS)
CONVOLUTIONS = (nn.Conv2d, Conv2d)
# By the operator's names for them. After and before a pool, only ReLU.
_ACTIVATIONS = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.Hardswish: "hardswish"}
_FUSIBLE = (*CONVOLUTIONS, nn.BatchNorm2d, *_ACTIVATIONS, *_IDENTITIES, *_POOLS)
_FUSED = (ConvReLU2d, Reparameterize, ELBOLoss)

# Folding rounds the weights once more, which only these types can afford.
FOLDED_DTYPES = (torch.float32, torch.float64)

# Weights that are folded in the time that one pixel of output takes BatchNorm2d, ReLU and pooling. Measured with
# 3x3 kernels, 64 to 512 channels, one core: at 3 to 12 weights per pixel a folded run takes 0.46 to 1.03 of the time
# of its layers one by one; at 24, with the 9 MB of weights of 512 channels, 1.2.
_WEIGHTS_FOLDED_PER_PIXEL = 16


_OWN_FORWARD = "has a forward of its own, set on the instance"


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs somebody else's code too, which a fused call would leave out."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def obstacle(layer: nn.Module, *, structure_only: bool = False) -> str | None:
    """Why this layer can't be part of a run, as the predicate of a sentence; None if it can.

    With `structure_only`, what a model changes while it lives (training mode, hooks) is no obstacle.
    """
    if type(layer) not in _FUSIBLE:
        return _foreign(layer)
    if not structure_only:
        temporary = _temporary_obstacle(layer)
        if temporary:
            return temporary
    if type(layer) is nn.BatchNorm2d and (layer.running_mean is None or layer.running_var is None):
        return "keeps no running statistics to fold"
    if type(layer) in _MAX_POOLS and layer.return_indices:
        return "returns indices, which the fused operator does not"
    if type(layer) in _MAX_POOLS and both_axes(layer.dilation) != (1, 1):
        return "has a dilated window, which the fused operator has not"
    if type(layer) in _AVG_POOLS and layer.divisor_override is not None:
        return "overrides the divisor, which the fused operator does not"
    if type(layer) is nn.ReLU6 and (layer.min_val, layer.max_val) != (0, 6):
        return "has bounds of its own, which the fused operator has not"
    return None


def _temporary_obstacle(layer: nn.Module) -> str | None:
    if has_hooks(layer):
        return "has hooks, which a fused call would leave out"
    if "forward" in layer.__dict__:
        return _OWN_FORWARD
    if type(layer) is nn.BatchNorm2d and layer.training:
        return "is in training mode; it is folded in eval mode"
    if type(layer) in _DROPOUTS and layer.training:
        return "is in training mode; it does nothing in eval mode"
    return None


def _foreign(layer: nn.Module) -> str:
    if type(layer) in STOCK_LAYERS and "forward" in layer.__dict__:
        return _OWN_FORWARD
    if isinstance(layer, _FUSED):
        return "is fused already"
    if parametrize.is_parametrized(layer):
        return "has parametrizations"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "is lazy; convert after its first forward"
    for stock in (*_FUSIBLE, *STOCK_LAYERS):
        if isinstance(layer, stock):
            return f"is a subclass of {stock.__name__}, which may compute something else"
    return "is not a layer that is fused"


class Run:
    """Successive layers that one operator call does. It owns no parameters: it reads its layers at each call."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.convolution = layers[0]
        self.norm = _find(layers, (nn.BatchNorm2d,))
        self.pool = _find(layers, _POOLS)
        self.activation = _ACTIVATIONS.get(type(_find(layers, tuple(_ACTIVATIONS))), "none")
        self.options = {**convolution_options(self.convolution), "activation": self.activation, **_pooling(self.pool)}
        self.fused = FusedConvolution(self.convolution, self.options, self.norm)
        self.least_input = _least_input_to_fold(self.convolution)

    def __call__(self, input: Tensor) -> Tensor:
        weight, bias = tensor_of(self.convolution, "weight"), tensor_of(self.convolution, "bias")
        if self.norm is None:
            return self.fused(input, weight, bias)
        norm = [tensor_of(self.norm, name) for name in ("running_mean", "running_var", "weight", "bias")]
        if norm[0] is None or norm[1] is None or not self._should_fold(input, weight):
            return self._one_by_one(input)
        return self.fused(input, weight, bias, *norm)

    def step(self) -> OperatorStep | None:
        """The run for a sequence of steps; None where it is not an operator alone."""
        return self.fused.step(self)

    def hindrance(self) -> str | None:
        """Why the layers always run one by one, as the predicate of a sentence; None if they do not."""
        if self.norm is None or self.convolution.weight.dtype in FOLDED_DTYPES:
            return None
        return f"is in {self.convolution.weight.dtype}: folding BatchNorm2d would round the weights once more"

    def _should_fold(self, input: Tensor, weight: Tensor) -> bool:
        if input.dim() != 4:  # BatchNorm2d refuses the unbatched images that Conv2d takes
            return False
        # Without gradients folding costs nothing. In export a question for the size would bind the graph to it.
        return (
            not torch.is_grad_enabled()
            or not (input.requires_grad or weight.requires_grad)
            or torch.compiler.is_exporting()
            or input.numel() >= self.least_input
        )

    def _one_by_one(self, input: Tensor) -> Tensor:
        for layer in self.layers:
            input = layer(input)
        return input


def _least_input_to_fold(convolution: nn.Conv2d) -> int:
    """Elements of input from which folding is faster than running the layers one by one.

    Folding passes over the weights, the separate layers over the convolution's output: compare their sizes.
    """
    weights_per_channel = convolution.in_channels // convolution.groups * math.prod(convolution.kernel_size)
    input_per_pixel = convolution.in_channels * math.prod(both_axes(convolution.stride))
    return weights_per_channel * input_per_pixel // _WEIGHTS_FOLDED_PER_PIXEL


def find_runs(layers: list[nn.Module], *, structure_only: bool = False) -> list[nn.Module | Run]:
    """The layers in order, successive ones that can be fused replaced by their Run."""
    steps = []
    position = 0
    while position < len(layers):
        length = _run_length(layers, position, structure_only)
        steps.append(Run(layers[position : position + length]) if length > 1 else layers[position])
        position += length
    return steps


def _run_length(layers: list[nn.Module], start: int, structure_only: bool) -> int:
    """How many layers from `start` on one operator call does; 1 where nothing is gained."""
    if type(layers[start]) not in CONVOLUTIONS or obstacle(layers[start], structure_only=structure_only):
        return 1
    length = 1
    fused = []
    for offset, layer in enumerate(layers[start + 1 :], start=2):
        kind = type(layer)
        if obstacle(layer, structure_only=structure_only) or not _may_follow(fused, kind):
            break
        if kind not in _IDENTITIES:
            fused.append(kind)
        if fused:
            length = offset
    return length


def _may_follow(fused: list[type], kind: type) -> bool:
    """Whether a layer of this kind can be fused when those kinds already are."""
    if kind is nn.BatchNorm2d:
        return not fused
    if kind in _ACTIVATIONS:
        # ReLU after max-pooling computes what it computes before, gradients included; after averaging it does not.
        commuting = _MAX_POOLS if kind is nn.ReLU else ()
        return all(other is nn.BatchNorm2d or other in commuting for other in fused)
    if kind in _POOLS:
        return all(other in (nn.BatchNorm2d, nn.ReLU) for other in fused)
    return kind in _IDENTITIES


def _find(layers: list[nn.Module], types: tuple[type, ...]) -> nn.Module | None:
    for layer in layers:
        if type(layer) in types:
            return layer
    return None


def _pooling(pool: nn.MaxPool2d | nn.AvgPool2d | None) -> dict[str, Any]:
    if pool is None:
        return {"pool": "none"}
    options = pool_options(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
    if type(pool) in _AVG_POOLS:
        options.update(pool="avg", count_include_pad=pool.count_include_pad)
    return options
