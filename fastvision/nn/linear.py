"""Linear as torch.nn has it, on `fastvision.ops.linear`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvision._calls import PreparedCall
from fastvision.nn.parameters import tensor_of
from fastvision.nn.storage import Copies, StoredWeights

_call = PreparedCall(torch.ops.fastvision.linear.default, 3)
_call_quantized = PreparedCall(torch.ops.fastvision.linear_quantized.default, 4)


class Linear(StoredWeights, nn.Linear):
    """`torch.nn.Linear`, faster in inference: its arguments, attributes, parameters, initialisation and state_dict.

    Shapes and dtypes: as of `fastvision.ops.linear`. Gradients, autocast and torch.compile are stock's.

    `weight_dtype`, of float32 weights, is torch.bfloat16 or torch.int8 for inference from weights in fewer bits.

    Raises:
        RuntimeError: what torch.nn.Linear raises.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = tensor_of(self, "weight"), tensor_of(self, "bias")
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return F.linear(input, weight, bias)  # a graph has the layer, for whoever reads it to do with as they like
        if self._storage is not None and (copies := self._copies_of([weight], input)):
            scale = copies.scales[0] if copies.scales else None
            return _call_quantized(input, copies.weights[0], scale, bias)
        return _call(input, weight, bias)

    def _current_weights(self) -> list[Tensor]:
        return [tensor_of(self, "weight")]

    def _current_copies(self, weights: list[Tensor]) -> Copies | None:
        return self._storage.copies(weights) if weights[0].dtype == torch.float32 else None
