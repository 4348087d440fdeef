"""Modules with the signatures, attributes and state_dict of torch.nn's, and a variational autoencoder's two layers."""

from fastvision.nn.conv import ConvReLU2d, ConvReLUAvgPool2d, ConvReLUMaxPool2d
from fastvision.nn.rnn import GRU, LSTM, GRUCell, LSTMCell
from fastvision.nn.vae import ELBOLoss, Reparameterize

__all__ = [
    "GRU",
    "LSTM",
    "ConvReLU2d",
    "ConvReLUAvgPool2d",
    "ConvReLUMaxPool2d",
    "ELBOLoss",
    "GRUCell",
    "LSTMCell",
    "Reparameterize",
]
