"""Modules with the signatures, attributes and state_dict of torch.nn's, and what torch.nn does not have."""

from fastvision.nn.augment import AffineAugment
from fastvision.nn.conv import Conv2d, ConvReLU2d, ConvReLUAvgPool2d, ConvReLUMaxPool2d
from fastvision.nn.linear import Linear
from fastvision.nn.pool import AvgPool2d, MaxPool2d
from fastvision.nn.rnn import GRU, LSTM, GRUCell, LSTMCell
from fastvision.nn.vae import ELBOLoss, Reparameterize

__all__ = [
    "GRU",
    "LSTM",
    "AffineAugment",
    "AvgPool2d",
    "Conv2d",
    "ConvReLU2d",
    "ConvReLUAvgPool2d",
    "ConvReLUMaxPool2d",
    "ELBOLoss",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "MaxPool2d",
    "Reparameterize",
]
