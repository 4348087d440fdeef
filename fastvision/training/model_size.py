"""How large a model is, and how much it computes."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class ModelSize:
    """Parameters, their bytes, and the floating-point operations of matrix products and convolutions for one image."""

    parameters: int
    bytes: int
    flops: int


def model_size(model: nn.Module, sample_shape: tuple[int, ...]) -> ModelSize:
    """Of a model of stock layers that takes images ``(N, C, H, W)``, or sequences; a multiply-add is two operations.

    Runs one image, or step, through a copy that has shapes but no values. torch counts the operations of its own
    layers, not of fastvision's, and those of an LSTM only there: on a CPU it is one operator without a gradient.
    """
    shapes = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        shapes(torch.empty(1, *sample_shape, device="meta"))
    parameters = list(model.parameters())
    return ModelSize(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        counter.get_total_flops(),
    )
