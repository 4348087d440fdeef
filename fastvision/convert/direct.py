"""Layers of which a plan calls the forward itself, and a Linear's with the ReLU that follows it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fastvision.convert.runs import Run, has_hooks
from fastvision.nn import Linear

# Exact types. What their calls depend on, `unchanged` watches.
_CALLED_DIRECTLY = (Linear, nn.Flatten, nn.ReLU)


def is_plain(layer: nn.Module) -> bool:
    """Whether a call of the layer is the forward of its class and no more."""
    return not has_hooks(layer) and "forward" not in layer.__dict__ and layer._compiled_call_impl is None


def is_direct(layer: Callable[[Tensor], Tensor]) -> bool:
    """Whether a plan calls the layer's forward itself."""
    return type(layer) in _CALLED_DIRECTLY and is_plain(layer)


def direct(layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What a call of the layer comes to, without the 0.7 us of nn.Module's; the layer itself where that is all."""
    if isinstance(layer, Run):
        return layer.direct()
    if not is_direct(layer):
        return layer
    return torch.relu if type(layer) is nn.ReLU and not layer.inplace else layer.forward


def with_relu(layer: Callable[[Tensor], Tensor], follower: Callable[[Tensor], Tensor]) -> Callable | None:
    """What calls of both come to where they are Linear and ReLU; None where they are not."""
    fits = type(layer) is Linear and type(follower) is nn.ReLU and is_direct(layer) and is_direct(follower)
    return layer.with_relu if fits else None


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
    return calls
