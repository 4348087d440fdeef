"""LSTM and GRU called from zeros again and again: whatever changes between two calls is seen."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import fastvision
from fastvision._calls import PreparedCall

each_layer = pytest.mark.parametrize("name", ["LSTM", "GRU"])


@pytest.fixture
def make(name):
    """Stock's module and ours with the same parameters; ours has been called twice."""

    def make(**options):
        pair = []
        for library in (nn, fastvision.nn):
            torch.manual_seed(2)
            pair.append(getattr(library, name)(3, 4, **options).eval())
        for _ in range(2):
            pair[1](torch.randn(5, 2, 3))
        return pair

    return make


@pytest.fixture
def by_python(monkeypatch):
    """The calls that are not made in native code."""
    calls = []
    forward = fastvision.nn.rnn._Sequences._forward
    monkeypatch.setattr(
        fastvision.nn.rnn._Sequences, "_forward", lambda self, *given: calls.append(self) or forward(self, *given)
    )
    return calls


def input_of(seed=1):
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(seed))


OPTIONS = {
    "one layer": {},
    "layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
}


@each_layer
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_calls_from_zeros_leave_python_out(by_python, make, options):
    stock, ours = make(**options)
    by_python.clear()
    assert_close(ours(input_of()), stock(input_of()))
    assert by_python == []


def replace_weight(module):
    module.weight_hh_l0 = nn.Parameter(torch.ones_like(module.weight_hh_l0))


CHANGES = {
    "values": lambda module: module.weight_ih_l0.data.mul_(2),
    "replaced": replace_weight,
    "batch_first": lambda module: setattr(module, "batch_first", True),
    "double": lambda module: module.double(),
    "weight_norm": lambda module: nn.utils.parametrizations.weight_norm(module, "weight_ih_l0"),
}


@each_layer
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_of_the_module_are_seen(make, change):
    stock, ours = make()
    for _ in range(2):
        change(stock)
        change(ours)
        input = input_of().to(stock.weight_hh_l0.dtype)
        assert_close(ours(input), stock(input))
        if change is CHANGES["weight_norm"]:
            return


@each_layer
def test_training_is_seen(make):
    stock, ours = make(num_layers=2, dropout=0.5)
    for mode in (True, False):
        results = []
        for module in (stock.train(mode), ours.train(mode)):
            torch.manual_seed(3)
            results.append(module(input_of()))
        assert_close(*results)


@each_layer
@pytest.mark.parametrize(
    ("option", "value"), [("zoneout", 0.5), ("recurrent_dropout", 0.5), ("weight_dtype", torch.int8)]
)
def test_options_beyond_stocks_are_seen(make, option, value):
    _, ours = make()
    results = []
    with torch.no_grad():
        ours(input_of())
        for given in (getattr(ours, option), value, getattr(ours, option)):
            setattr(ours, option, given)
            torch.manual_seed(0)
            results.append((ours.train() if option == "recurrent_dropout" else ours)(input_of())[0])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


@each_layer
@pytest.mark.parametrize(
    "input",
    [torch.ones(2), torch.ones(5, 2, 4), torch.ones(5, 2, 3, dtype=torch.float64), 3],
    ids=["1-d", "size", "dtype", "int"],
)
def test_wrong_inputs_are_refused_as_by_stock(make, input):
    stock, ours = make()
    with pytest.raises((RuntimeError, ValueError, AttributeError)) as theirs:
        stock(input)
    with pytest.raises(type(theirs.value)) as error:
        ours(input)
    assert str(error.value) == str(theirs.value)


@each_layer
def test_other_kinds_of_input(make):
    stock, ours = make()
    sequences = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    for input in (torch.randn(5, 3), sequences, torch.empty(5, 0, 3)):
        theirs, result = stock(input), ours(input)
        assert_close(result[1], theirs[1])
        assert_close(getattr(result[0], "data", result[0]), getattr(theirs[0], "data", theirs[0]))
    states = stock(input_of())[1]
    assert_close(ours(input_of(), states), stock(input_of(), states))


@each_layer
def test_gradients(make):
    grads = []
    for module in make():
        input = input_of().requires_grad_()
        grads.append(torch.autograd.grad(module(input)[0].square().sum(), [input, *module.parameters()]))
    assert_close(*grads)


@each_layer
def test_modes(make):
    stock, ours = make()
    with torch.inference_mode():
        assert ours(input_of())[0].is_inference()
    with torch.autocast("cpu", torch.bfloat16):
        result = ours(input_of())
    assert result[0].dtype == (torch.bfloat16 if isinstance(stock, nn.LSTM) else torch.float32)  # as stock's
    # Stock in float32: oneDNN's LSTM in bfloat16 needs AVX-512.
    assert_close(result, stock(input_of()), rtol=0, atol=0.02, check_dtype=False)


@each_layer
def test_a_trace_is_of_stocks_operators(make):
    _, ours = make()
    traced = torch.jit.trace(ours, (input_of(),))
    assert "fastvision::" not in str(traced.graph)


@each_layer
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_with_their_own_parameters(make, duplicate):
    _, ours = make()
    copied = duplicate(ours)
    expected = ours(input_of())
    assert_close(copied(input_of()), expected)
    copied._parameters = {key: nn.Parameter(value * 2) for key, value in copied._parameters.items()}
    assert_close(ours(input_of()), expected)
    assert not torch.allclose(copied(input_of())[0], expected[0])


@pytest.mark.parametrize(("names", "batch_dim"), [((), 1), (("weight_ih_l0",), 2), (("weight_ih_l0",), -1)])
def test_calls_that_cannot_be_prepared(names, batch_dim):
    options = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
    call = PreparedCall(torch.ops.fastvision.gru.default, 3, batch_first=False, **options)
    with pytest.raises(ValueError, match="names, batch_dim: expected parameters, and 0 or 1"):
        call.of_recurrent_module(names, {}, (), (1, 1, 3, 4, batch_dim), max)
