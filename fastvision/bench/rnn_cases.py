"""What the rnn family is measured on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

import fastvision.nn
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read

Module = Literal["LSTM", "GRU", "LSTMCell", "GRUCell"]


@dataclass(frozen=True)
class RnnCase:
    """A layer or a cell, and its batch.

    Attributes:
        module: its class in torch.nn and fastvision.nn.
        batch: how many sequences.
        steps: their length; 1 for cells.
        shortest: packed sequences of lengths from this one to steps, evenly spread; None: equally long, not packed.
        quick: whether it is one of the few of `bench all --quick`.
    """

    module: Module
    batch: int
    steps: int
    input_size: int
    hidden_size: int
    shortest: int | None = None
    modes: tuple[Mode, ...] = ("infer",)
    quick: bool = False

    @property
    def name(self) -> str:
        """For example 'GRU b32 t100 128>256' or 'LSTMCell b1 128>128'."""
        steps = "" if self.is_cell else f" t{self.steps}"
        if self.shortest is not None:
            steps = f" t{self.shortest}-{self.steps} packed"
        return f"{self.module} b{self.batch}{steps} {self.input_size}>{self.hidden_size}"

    @property
    def is_cell(self) -> bool:
        """Whether the module computes one step."""
        return self.module.endswith("Cell")

    @property
    def has_cell_state(self) -> bool:
        """Whether the state is a pair."""
        return self.module.startswith("LSTM")

    @property
    def lengths(self) -> list[int]:
        """Of the sequences, the longest first."""
        if self.shortest is None:
            return [self.steps] * self.batch
        spread = (self.steps - self.shortest) / max(1, self.batch - 1)
        return [round(self.steps - i * spread) for i in range(self.batch)]

    def flops(self, mode: Mode) -> int:
        """Floating-point operations of the matrix products, two per multiply-add.

        Training counts as many again for the gradient of the weights, and for that of input and state.
        """
        per_row = 2 * self._gate_rows * (self.input_size + self.hidden_size)
        return (1 if mode == "infer" else 3) * sum(self.lengths) * per_row

    def reads(self, mode: Mode, element_size: int) -> tuple[Read, ...]:
        """The two weight matrices, of elements of element_size bytes; biases and tensors are not counted.

        Every step needs the hidden state of the step before, so each reads the hidden weights anew. The products with
        the input need no state: one reading can serve all steps. Training reads both again for the gradients of input
        and state.
        """
        passes = 1 if mode == "infer" else 2
        input, hidden = (self._gate_rows * size * element_size for size in (self.input_size, self.hidden_size))
        between = hidden if self.steps > 1 else input + hidden
        return (Read(hidden, passes * self.steps, between), Read(input, passes, input + hidden))

    @property
    def _gate_rows(self) -> int:
        """Rows of each weight matrix."""
        return (4 if self.has_cell_state else 3) * self.hidden_size

    def stock_module(self, dtype: torch.dtype) -> nn.Module:
        """The module of torch.nn."""
        return getattr(nn, self.module)(self.input_size, self.hidden_size, dtype=dtype)

    def fastvision_module(self, dtype: torch.dtype) -> nn.Module:
        """The module of fastvision.nn."""
        return getattr(fastvision.nn, self.module)(self.input_size, self.hidden_size, dtype=dtype)


_BOTH: tuple[Mode, ...] = ("infer", "train")

RNN_CASES = (
    RnnCase("LSTMCell", 1, 1, 128, 128, quick=True),
    RnnCase("GRUCell", 1, 1, 128, 128),
    RnnCase("LSTMCell", 1, 1, 512, 512),
    RnnCase("GRUCell", 1, 1, 512, 512),
    RnnCase("LSTMCell", 32, 1, 256, 512, modes=_BOTH),
    RnnCase("GRUCell", 32, 1, 256, 512, modes=_BOTH, quick=True),
    RnnCase("LSTMCell", 256, 1, 512, 512),
    RnnCase("GRUCell", 256, 1, 512, 512),
    RnnCase("GRU", 1, 28, 28, 128, quick=True),
    RnnCase("GRU", 1, 100, 128, 256),
    RnnCase("GRU", 32, 100, 128, 256, modes=_BOTH, quick=True),
    RnnCase("GRU", 64, 50, 512, 512, modes=_BOTH),
    RnnCase("LSTM", 1, 28, 28, 128),
    RnnCase("LSTM", 1, 100, 128, 256, quick=True),
    RnnCase("LSTM", 32, 100, 128, 256, modes=_BOTH, quick=True),
    RnnCase("LSTM", 64, 50, 512, 512),
    RnnCase("LSTM", 16, 60, 40, 96, shortest=20, quick=True),
)
