"""Single layers that a module of fastvision.nn does faster: Linear, LSTM, GRU and their cells.

A replaced layer stays the object that it was, with its parameters, hooks and mode. Only its class changes.
"""

from torch import nn

from fastvision.nn import GRU, LSTM, GRUCell, Linear, LSTMCell
from fastvision.nn.regularized import Regularized

# Exact types: a subclass (a parametrized or quantised layer has one too) may compute something else.
_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
    nn.Linear: Linear,
}
_OPERATORS = {LSTM: "lstm", GRU: "gru", LSTMCell: "lstm_cell", GRUCell: "gru_cell", Linear: "linear"}
STOCK_LAYERS = tuple(_REPLACEMENTS)
_ORIGINALS = {ours: stock for stock, ours in _REPLACEMENTS.items()}


def replacement(layer: nn.Module) -> type[nn.Module] | None:
    """The class that does what this layer does, faster; None if there is none or the layer has its own forward."""
    return None if "forward" in layer.__dict__ else _REPLACEMENTS.get(type(layer))


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
