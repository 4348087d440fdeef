"""Single layers that a module of fastvision.nn does faster: Linear, MaxPool2d, AvgPool2d, LSTM, GRU and their
cells, some Conv2d.

A replaced layer stays the object that it was, with its parameters, hooks and mode. Only its class changes.
"""

from torch import nn

from fastvision.nn import GRU, LSTM, AvgPool2d, Conv2d, GRUCell, Linear, LSTMCell, MaxPool2d
from fastvision.nn.conv import both_axes
from fastvision.nn.regularized import Regularized

# Exact types: a subclass (a parametrized or quantised layer has one too) may compute something else.
_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
    nn.Linear: Linear,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.Conv2d: Conv2d,
}
_OPERATORS = {
    LSTM: "lstm",
    GRU: "gru",
    LSTMCell: "lstm_cell",
    GRUCell: "gru_cell",
    Linear: "linear",
    MaxPool2d: "max_pool2d",
    AvgPool2d: "avg_pool2d",
    Conv2d: "conv2d_pool2d",
}
# Input channels from which on Winograd's algorithm takes half of a convolution's time, in training, too.
_MIN_WINOGRAD_CHANNELS = 16
# Output channels per group below which stock leaves much of its vectors idle, unless it has whole blocks of channels.
_FEW_OUTPUTS = 16
_STOCK_BLOCK = 8
STOCK_LAYERS = tuple(_REPLACEMENTS)
_ORIGINALS = {ours: stock for stock, ours in _REPLACEMENTS.items()}


def replacement(layer: nn.Module) -> type[nn.Module] | None:
    """The class that does what this layer does, faster; None if there is none or the layer has its own forward."""
    if "forward" in layer.__dict__ or (type(layer) is nn.Conv2d and not _pays_alone(layer)):
        return None
    if type(layer) is nn.MaxPool2d and both_axes(layer.dilation) != (1, 1):
        return None
    return _REPLACEMENTS.get(type(layer))


def _pays_alone(convolution: nn.Conv2d) -> bool:
    """Whether nothing needs to follow a convolution for its kernel to be faster than stock's."""
    return convolution.padding_mode == "zeros" and (_is_winograds(convolution) or _has_few_outputs(convolution))


def _is_winograds(convolution: nn.Conv2d) -> bool:
    ones = (convolution.stride, convolution.dilation, convolution.groups)
    return (
        both_axes(convolution.kernel_size) == (3, 3)
        and all(both_axes(one) == (1, 1) for one in ones)
        and convolution.in_channels >= _MIN_WINOGRAD_CHANNELS
    )


def _has_few_outputs(convolution: nn.Conv2d) -> bool:
    channels = [n // convolution.groups for n in (convolution.in_channels, convolution.out_channels)]
    if channels[1] >= _FEW_OUTPUTS:
        return False
    if convolution.groups == 1:
        return both_axes(convolution.kernel_size) != (1, 1)
    return any(n % _STOCK_BLOCK for n in channels)


def is_ours(layer: nn.Module) -> bool:
    """Whether it was replaced, or made with our class."""
    return type(layer) in _ORIGINALS


def original(layer: nn.Module) -> type[nn.Module] | None:
    """The stock class that computes what this layer of ours does; None if there is none, and for other layers."""
    return _ORIGINALS.get(type(layer)) if getattr(layer, "_rates", None) is None else None


def operator_name(layer: nn.Module) -> str:
    """The operator that does a layer, replaced or replaceable, in the mode that the layer is in."""
    if isinstance(layer, Regularized) and layer._is_regularized():
        return "torch.ops.fastvision.regularized_rnn"
    return "fastvision.ops." + _OPERATORS[_REPLACEMENTS.get(type(layer), type(layer))]
