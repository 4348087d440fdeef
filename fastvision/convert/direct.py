"""Layers of which a plan calls the forward itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastvision.convert.runs import has_hooks
from fastvision.nn import Linear

# Exact types. What their calls depend on, `unchanged` watches.
CALLED_DIRECTLY = (Linear, nn.Flatten, nn.ReLU)


def direct(layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What a call of the layer comes to, without the 0.7 us of nn.Module's; the layer itself where that is all."""
    if type(layer) not in CALLED_DIRECTLY or has_hooks(layer) or "forward" in layer.__dict__:
        return layer
    if layer._compiled_call_impl is not None:
        return layer
    return torch.relu if type(layer) is nn.ReLU and not layer.inplace else layer.forward
