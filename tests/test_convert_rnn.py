"""convert, revert and explain on LSTM, GRU and their cells."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.ao.nn.quantized import dynamic as quantized
from torch.nn.utils import parametrizations

import fastvision
from fastvision.convert import Row, convert, explain, revert

LAYERS = {
    "LSTM": lambda: nn.LSTM(4, 6, 2, dropout=0.5, bidirectional=True),
    "GRU": lambda: nn.GRU(4, 6, batch_first=True),
    "LSTMCell": lambda: nn.LSTMCell(4, 6),
    "GRUCell": lambda: nn.GRUCell(4, 6, bias=False),
}
by_name = pytest.mark.parametrize("name", LAYERS)


def results(layer):
    torch.manual_seed(1)
    return torch.utils._pytree.tree_leaves(layer(torch.randn(3, 4)))


@by_name
def test_a_layer_keeps_all_but_its_class(name):
    layer = LAYERS[name]()
    layer.eval()
    next(layer.parameters()).requires_grad_(False)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    before = dict(vars(layer))
    expected = results(layer)
    assert convert(layer, inplace=True) is layer
    assert type(layer) is getattr(fastvision.nn, name)
    assert vars(layer) == before
    torch.testing.assert_close(results(layer), expected)
    assert len(calls) == 2
    assert revert(layer) is layer
    assert type(layer) is getattr(nn, name)
    assert vars(layer) == before


@by_name
def test_a_copy_leaves_the_original(name):
    model = nn.Sequential(LAYERS[name]())
    converted = convert(model)
    assert type(model[0]) is getattr(nn, name)
    assert type(converted[0]) is getattr(fastvision.nn, name)
    for clone in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        torch.testing.assert_close(results(clone.eval()), results(model.eval()))
    assert [type(m) for m in convert(converted).modules()] == [type(m) for m in converted.modules()]


def test_example_inputs():
    layer = LAYERS["LSTM"]()
    input = torch.randn(3, 4)
    assert type(convert(layer, input)) is fastvision.nn.LSTM
    layer.weight_ih_l0.data.fill_(float("inf"))
    layer.register_forward_hook(lambda module, *_: torch.ones(1) * isinstance(module, fastvision.nn.LSTM))
    with pytest.raises(RuntimeError, match="output 0 of the converted model differs"):
        convert(layer, input, inplace=True)
    assert type(layer) is nn.LSTM


class Tagger(nn.LSTM):
    pass


def with_forward(layer):
    layer.forward = lambda input: input
    return layer


UNTOUCHED = {
    "subclass": (lambda: Tagger(4, 6), "is a subclass of LSTM, which may compute something else"),
    "parametrized": (lambda: parametrizations.weight_norm(nn.GRU(4, 6), "weight_hh_l0"), "has parametrizations"),
    "own forward": (lambda: with_forward(nn.GRUCell(4, 6)), "has a forward of its own, set on the instance"),
    "plain RNN": (lambda: nn.RNN(4, 6), "is not a layer that is fused"),
    "quantised": (lambda: quantized.LSTM(4, 6), "is not a layer that is fused"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("build", "reason"), UNTOUCHED.values(), ids=UNTOUCHED)
def test_layers_that_are_left_alone(build, reason):
    model = build()
    kind = type(model)
    assert type(convert(model, inplace=True)) is kind
    assert [(row.status, row.reason) for row in explain(model).rows] == [("not replaced", reason)]


def test_explain():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 6))
            self.cell = nn.LSTMCell(4, 6)

    model = Net()
    rows = explain(model).rows
    assert rows == (
        Row("encoder.0", ("Linear",), "replaceable", "calls fastvision.ops.linear"),
        Row("encoder.1", ("GRU",), "replaceable", "calls fastvision.ops.gru"),
        Row("cell", ("LSTMCell",), "replaceable", "calls fastvision.ops.lstm_cell"),
    )
    assert [row.status for row in explain(convert(model)).rows] == ["replaced"] * 3
