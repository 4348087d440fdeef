"""Linear as torch.nn has it, on `fastvision.ops.linear`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvision._calls import OperatorStep, PreparedCall, is_recorded
from fastvision._parameters import tensor_of
from fastvision.nn.storage import Copies, StoredWeights

_OPERATORS = torch.ops.fastvision
_PARAMETERS = ("weight", "bias")
_prepared = {
    activation: PreparedCall(_OPERATORS.linear.default, 3, activation=activation) for activation in ("none", "relu")
}
_call, _call_with_relu = (prepared.of_module(_PARAMETERS) for prepared in _prepared.values())
_call_quantized, _call_quantized_with_relu = (
    PreparedCall(_OPERATORS.linear_quantized.default, 4, activation=activation) for activation in ("none", "relu")
)


class Linear(StoredWeights, nn.Linear):
    """`torch.nn.Linear`, faster: its arguments, attributes, parameters, initialisation and state_dict.

    Shapes and dtypes: as of `fastvision.ops.linear`. Autocast and torch.compile are stock's.

    `weight_dtype`, of float32 weights, is torch.bfloat16 or torch.int8 for inference from weights in fewer bits.

    Raises:
        RuntimeError: what torch.nn.Linear raises.
    """

    def forward(self, input: Tensor) -> Tensor:
        if is_recorded():
            return F.linear(input, tensor_of(self, "weight"), tensor_of(self, "bias"))
        return self._run(input, _call, _call_quantized)

    def with_relu(self, input: Tensor) -> Tensor:
        """The forward and a ReLU after it in one pass, without hooks."""
        if is_recorded():
            return torch.relu(self.forward(input))
        return self._run(input, _call_with_relu, _call_quantized_with_relu)

    def step(self, activation: str) -> OperatorStep | None:
        """The forward, or with_relu, for a sequence of steps; None with weights in fewer bits."""
        if self._storage is not None:
            return None
        return _prepared[activation].step(self.with_relu if activation == "relu" else self.forward, (self, _PARAMETERS))

    def _run(self, input: Tensor, call: Callable[[nn.Module, Tensor], Tensor], call_quantized: PreparedCall) -> Tensor:
        if self._storage is not None and (copies := self._copies_of(self._current_weights(), input)):
            scale = copies.scales[0] if copies.scales else None
            return call_quantized(input, copies.weights[0], scale, tensor_of(self, "bias"))
        return call(self, input)

    def _current_weights(self) -> list[Tensor]:
        return [tensor_of(self, "weight")]

    def _current_copies(self, weights: list[Tensor]) -> Copies | None:
        return self._storage.copies(weights) if weights[0].dtype == torch.float32 else None
