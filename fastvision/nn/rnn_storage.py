"""Inference of LSTM, GRU and their cells from weights in fewer bits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastvision._calls import PreparedCall
from fastvision.nn.storage import Copies, StoredWeights

_layer = PreparedCall(torch.ops.fastvision.rnn_layer_quantized.default, 7)


def _run_layer(
    copies: Copies,
    index: int,
    count: int,
    input: Tensor,
    states: Sequence[Tensor],
    biases: list[Tensor],
    batch_sizes: Tensor | None,
) -> tuple[Tensor, ...]:
    """Output and final states of a layer with `count` matrices; those before it have as many."""
    begin, end = index * count, (index + 1) * count
    cx = states[1] if len(states) > 1 else None
    weights, scales = copies.weights[begin:end], copies.scales[begin:end]
    output, hy, cy = _layer(input, states[0], cx, weights, scales, biases[begin:end], batch_sizes)
    return (output, hy) if cx is None else (output, hy, cy)


class StoredRnnWeights(StoredWeights):
    """StoredWeights of recurrent layers and cells. Put before stock's class."""

    def _run_stored(
        self,
        weights: list[Tensor],
        input: Tensor,
        states: Sequence[Tensor],
        batch_first: bool,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """All layers from copies of `weights`: output and final states. None if the weights themselves are used."""
        copies = self._copies_for(weights, input, states)
        if copies is None:
            return None
        biases = [bias for i in range(2, len(weights), 4) for bias in weights[i : i + 2]] if self.bias else []
        directions = 2 if self.bidirectional else 1
        rows = input.transpose(0, 1) if batch_first else input
        finals = []
        for i in range(self.num_layers):
            initial = (
                [state.narrow(0, i * directions, directions) for state in states] if self.num_layers > 1 else states
            )
            rows, *final = _run_layer(copies, i, 2 * directions, rows, initial, biases, batch_sizes)
            finals.append(final)
        joined = finals[0] if len(finals) == 1 else [torch.cat(layers) for layers in zip(*finals, strict=True)]
        return rows.transpose(0, 1) if batch_first else rows, tuple(joined)

    def _step_stored(self, weights: list[Tensor], input: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """The next states of a cell, or None, likewise."""
        copies = self._copies_for(weights, input, states)
        return None if copies is None else _run_layer(copies, 0, 2, input, states, weights[2:], None)[1:]

    def _copies_for(self, weights: list[Tensor], input: Tensor, states: Sequence[Tensor]) -> Copies | None:
        if len(states) != (2 if isinstance(self, (nn.LSTM, nn.LSTMCell)) else 1):
            return None  # stock's to judge
        return self._copies_of(weights, input, *states)

    def _current_copies(self, weights: list[Tensor]) -> Copies | None:
        step = 4 if self.bias else 2  # tensors of a direction
        if len(weights) == step:
            return self._storage.copies(weights[:2])
        if getattr(self, "proj_size", 0):
            return None
        return self._storage.copies([matrix for i in range(0, len(weights), step) for matrix in weights[i : i + 2]])
