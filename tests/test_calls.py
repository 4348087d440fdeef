"""PreparedCall: an operator called without torch.ops, to the same effect."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastvision._calls import PreparedCall
from fastvision.nn import ConvReLUMaxPool2d

OPERATOR = torch.ops.fastvision.conv2d_pool2d.default
OPTIONS = {"stride": (2, 1), "padding": (1, 2), "activation": "none", "pool": "avg", "pool_kernel_size": (3, 3)}


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return torch.randn(2, 3, 12, 11), torch.randn(4, 3, 3, 3), torch.randn(4)


def calls(monkeypatch, prepared):
    """How often the prepared call leaves the work to torch.ops."""
    counted = []
    operator = prepared._operator

    class Counted:
        _schema = operator._schema

        def __call__(self, *args, **kwargs):
            counted.append(args)
            return operator(*args, **kwargs)

    monkeypatch.setattr(prepared, "_operator", Counted())
    return counted


def test_options_and_defaults_reach_the_operator(monkeypatch, tensors):
    prepared = PreparedCall(OPERATOR, 3, **OPTIONS)
    by_torch = calls(monkeypatch, prepared)
    assert torch.equal(prepared(*tensors), OPERATOR(*tensors, **OPTIONS))
    assert torch.equal(prepared(*tensors[:2], None), OPERATOR(*tensors[:2], **OPTIONS))
    assert by_torch == []


def test_gradients(tensors):
    grads = []
    for call in (PreparedCall(OPERATOR, 3), OPERATOR):
        leaves = [t.clone().requires_grad_() for t in tensors]
        call(*leaves).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all(map(torch.equal, *grads))


def test_several_results():
    mu, logvar = torch.randn(2, 3, 4)
    prepared = PreparedCall(torch.ops.fastvision.reparameterize_kl.default, 2, reduction="none")
    results = []
    for call in (prepared, lambda *t: torch.ops.fastvision.reparameterize_kl(*t, reduction="none")):
        torch.manual_seed(5)
        results.append(call(mu, logvar))
    assert isinstance(results[0], tuple)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("as_list", [list, tuple])
def test_lists_of_tensors(monkeypatch, as_list):
    operator = torch.ops.fastvision.gru.default
    layer, input, state = nn.GRU(4, 5), torch.randn(3, 2, 4), torch.zeros(1, 2, 5)
    options = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
    prepared = PreparedCall(operator, 3, batch_first=False, **options)
    by_torch = calls(monkeypatch, prepared)
    results = prepared(input, state, as_list(layer.parameters()))
    assert by_torch == []
    torch.testing.assert_close(results, layer(input, state))


def test_a_list_where_a_tensor_belongs_is_torch_ops_to_refuse(tensors):
    with pytest.raises(RuntimeError, match="Expected a value of type 'Tensor' for argument 'input'"):
        PreparedCall(OPERATOR, 3)(list(tensors), *tensors[1:])


def test_a_tensor_where_a_list_belongs_goes_by_torch_ops():
    options = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
    prepared = PreparedCall(torch.ops.fastvision.gru.default, 3, batch_first=False, **options)
    with pytest.raises(RuntimeError, match="params"):
        prepared(torch.randn(3, 2, 4), torch.zeros(1, 2, 5), torch.randn(3))


class Subclass(torch.Tensor):
    pass


def test_a_subclass_of_tensor_goes_by_torch_ops(monkeypatch, tensors):
    prepared = PreparedCall(OPERATOR, 3)
    by_torch = calls(monkeypatch, prepared)
    assert isinstance(prepared(tensors[0].as_subclass(Subclass), *tensors[1:]), Subclass)
    assert len(by_torch) == 1


def test_a_torch_function_mode_sees_the_operator(tensors):
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    prepared = PreparedCall(OPERATOR, 3)
    with Mode():
        prepared(*tensors)
    assert OPERATOR in seen


def test_a_dispatch_mode_sees_the_operator(tensors):
    seen = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        PreparedCall(OPERATOR, 3)(*tensors)
    assert OPERATOR in seen


def test_torch_jit_trace_records_the_operator(tensors):
    prepared = PreparedCall(OPERATOR, 3)
    traced = torch.jit.trace(lambda *t: prepared(*t), tensors)
    assert "fastvision::conv2d_pool2d" in str(traced.graph)


@pytest.mark.parametrize("arguments", [(1, 2, 3), (), (torch.ones(1, 1, 4, 4),)])
def test_wrong_arguments_are_refused_as_by_torch_ops(arguments):
    with pytest.raises((RuntimeError, TypeError)) as ours:
        PreparedCall(OPERATOR, 3)(*arguments)
    with pytest.raises(type(ours.value)) as theirs:
        OPERATOR(*arguments)
    assert str(ours.value) == str(theirs.value)


def test_errors_of_the_operator_are_those_of_torch_ops(tensors):
    wrong = (tensors[0][:, :2], *tensors[1:])
    with pytest.raises(RuntimeError) as ours:
        PreparedCall(OPERATOR, 3)(*wrong)
    with pytest.raises(RuntimeError) as theirs:
        OPERATOR(*wrong)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_module_that_was_called_can_be_copied(duplicate):
    module, input = ConvReLUMaxPool2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8)
    expected = module(input)
    copied = duplicate(module)
    nn.init.zeros_(module.weight)
    assert torch.equal(copied(input), expected)
