"""Modules with the signatures, attributes and state_dict of torch.nn's."""

from fastvision.nn.conv import ConvReLU2d, ConvReLUAvgPool2d, ConvReLUMaxPool2d
from fastvision.nn.rnn import GRU, LSTM, GRUCell, LSTMCell

__all__ = ["GRU", "LSTM", "ConvReLU2d", "ConvReLUAvgPool2d", "ConvReLUMaxPool2d", "GRUCell", "LSTMCell"]
