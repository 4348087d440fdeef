"""The operators as functions."""

from fastvision.ops.conv import conv2d_pool2d, conv2d_pool2d_reference
from fastvision.ops.rnn import (
    gru,
    gru_cell,
    gru_cell_reference,
    gru_reference,
    lstm,
    lstm_cell,
    lstm_cell_reference,
    lstm_reference,
)

__all__ = [
    "conv2d_pool2d",
    "conv2d_pool2d_reference",
    "gru",
    "gru_cell",
    "gru_cell_reference",
    "gru_reference",
    "lstm",
    "lstm_cell",
    "lstm_cell_reference",
    "lstm_reference",
]
