"""weight_dtype of LSTM, GRU and their cells: when inference reads stored weights, and that these are up to date."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import fastvision
from fastvision.nn.storage import dequantize, quantize

STORED = (torch.bfloat16, torch.int8)
by_dtype = pytest.mark.parametrize("dtype", STORED, ids=str)
by_name = pytest.mark.parametrize("name", ["LSTM", "GRU", "LSTMCell", "GRUCell"])
pytestmark = pytest.mark.usefixtures("one_thread")


def build(name, *args, dtype=None, **options):
    torch.manual_seed(1)
    module = getattr(fastvision.nn, name)(*(args or (4, 6)), **options).eval()
    module.weight_dtype = dtype
    return module


def flat(results):
    if isinstance(results, tuple):
        return [tensor for result in results for tensor in flat(result)]
    return [] if results is None else [results]


def rounded(module, dtype):
    """A stock module in full precision with the weights that `dtype` stores."""
    stock = fastvision.revert(copy.deepcopy(module))
    with torch.no_grad():
        for parameter in stock.parameters():
            if parameter.dim() == 2:
                parameter.copy_(dequantize(*quantize(parameter, dtype)))
    return stock


def uses_copies(module, *arguments):
    """Whether a call computes with stored weights rather than with the parameters."""
    results, dtype = flat(module(*arguments)), module.weight_dtype
    module.weight_dtype = None
    pairs = zip(results, flat(module(*arguments)), strict=True)
    module.weight_dtype = dtype
    is_plain = [torch.equal(a, b) for a, b in pairs if a.is_floating_point()]
    assert any(is_plain) == all(is_plain)
    return not any(is_plain)


OPTIONS = {
    "plain": {},
    "deep, both ways": {"num_layers": 3, "bidirectional": True},
    "deep, no bias": {"num_layers": 2, "bias": False},
    "batch first": {"batch_first": True, "num_layers": 2, "dropout": 0.5},
}
INPUTS = {
    "batch": lambda: torch.randn(5, 3, 4),
    "one row": lambda: torch.randn(20, 1, 4),
    "unbatched": lambda: torch.randn(5, 4),
    "packed": lambda: pack_sequence([torch.randn(n, 4) for n in (3, 5, 2)], enforce_sorted=False),
}


@by_dtype
@pytest.mark.parametrize("make_input", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_sequences_with_stored_weights(name, options, make_input, dtype):
    module, input = build(name, dtype=dtype, **options), make_input()
    stock = rounded(module, dtype)
    with torch.no_grad():
        assert_close(flat(module(input)), flat(stock(input)))
        assert [t.stride() for t in flat(module(input))] == [t.stride() for t in flat(stock(input))]
        hx = module(input)[1]
        assert_close(flat(module(input, hx)), flat(stock(input, hx)))
        assert uses_copies(module, input, hx)


@by_dtype
@pytest.mark.parametrize("shape", [(3, 4), (4,), (1, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_cells_with_stored_weights(name, bias, shape, dtype):
    module = build(name, dtype=dtype, bias=bias)
    stock, input = rounded(module, dtype), torch.randn(shape)
    with torch.inference_mode():
        assert_close(flat(module(input)), flat(stock(input)))
        hx = module(input)
        assert_close(flat(module(input, hx)), flat(stock(input, hx)))
        assert uses_copies(module, input, hx)


def frozen(module):
    return module.requires_grad_(False)


def pruned(module):
    return prune.l1_unstructured(module, "weight_hh" if isinstance(module, nn.RNNCellBase) else "weight_hh_l0", 0.5)


FULL_PRECISION = {
    "training mode": lambda m, x: (m.train(), x),
    "bfloat16 parameters": lambda m, x: (m.bfloat16(), x.bfloat16()),
    "float64 parameters": lambda m, x: (m.double(), x.double()),
    "pruned": lambda m, x: (pruned(m), x),
}


@pytest.mark.parametrize("make", FULL_PRECISION.values(), ids=FULL_PRECISION)
@by_name
def test_full_precision_without_gradients(name, make):
    module, input = make(build(name, dtype=torch.bfloat16), torch.randn(3, 4))
    with torch.no_grad():
        assert not uses_copies(module, input)
    assert module.eval().weight_error() is None or make is FULL_PRECISION["training mode"]


@by_name
def test_gradients_need_full_precision(name):
    module, input = build(name, dtype=torch.int8), torch.randn(3, 4)
    assert not uses_copies(module, input)
    assert uses_copies(frozen(module), input)
    assert not uses_copies(module, input.requires_grad_())
    flat(module(input))[0].sum().backward()
    assert input.grad is not None


def test_projections_run_in_full_precision():
    module = build("LSTM", 4, 6, proj_size=3, dtype=torch.int8)
    with torch.no_grad():
        assert not uses_copies(module, torch.randn(3, 4))


@by_name
def test_inference_tensors_run_in_full_precision(name):
    with torch.inference_mode():
        module = build(name, dtype=torch.int8)
        assert not uses_copies(module, torch.randn(3, 4))


@by_name
def test_copies_from_inference_mode_serve_outside(name):
    module, input = frozen(build(name, dtype=torch.int8)), torch.randn(3, 4)
    with torch.inference_mode():
        expected = flat(module(input))
    copies = module._storage._copies
    assert_close(flat(module(input)), [t.clone() for t in expected], rtol=0, atol=0)
    assert module._storage._copies is copies


@by_name
def test_compiled_and_exported_in_full_precision(name):
    torch.compiler.reset()
    module, input = frozen(build(name, dtype=torch.int8)), torch.randn(3, 4)
    plain = copy.deepcopy(module)
    plain.weight_dtype = None
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    program = torch.export.export(module, (input,))
    for function in (compiled, program.module(), torch.jit.trace(module, input)):
        assert_close(flat(function(input)), flat(plain(input)))
    assert uses_copies(module, input)


@by_name
def test_functional_call_uses_what_it_is_given(name):
    module, input = frozen(build(name, dtype=torch.int8)), torch.randn(3, 4)
    values = {key: torch.randn_like(value) for key, value in module.named_parameters()}
    plain = copy.deepcopy(module)
    plain.weight_dtype = None
    expected = torch.func.functional_call(plain, values, (input,))
    assert_close(flat(torch.func.functional_call(module, values, (input,))), flat(expected))


@by_name
def test_autocast(name):
    module, input = frozen(build(name, 16, 32, dtype=torch.int8)), torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        for x in (input, input.bfloat16()):
            results = flat(module(x))
            assert uses_copies(module, x)
            with torch.autocast("cpu", enabled=False):
                expected = [t.to(x.dtype) for t in flat(rounded(module, torch.int8)(x.float()))]
            assert [t.dtype for t in results] == [x.dtype] * len(results)
            assert_close(results, expected, rtol=0.05, atol=0.05)


def step(optimizer):
    def change(module):
        optimizer(module.parameters()).step()

    return change


def load(module):
    module.load_state_dict({key: value + 0.1 for key, value in module.state_dict().items()})


def replace_parameter(module):
    name = "weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0"
    setattr(module, name, nn.Parameter(getattr(module, name) + 0.1))


def replace_parameter_in_its_memory(module):
    name = "weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0"
    old = getattr(module, name)
    new = nn.Parameter(old.data)
    with torch.no_grad():
        while new._version < old._version:
            new.mul_(1.5)
    setattr(module, name, new)


def replace_data(module):
    for parameter in module.parameters():
        parameter.data = parameter.data + 0.1


def add_in_inference_mode(module):
    with torch.inference_mode():
        for parameter in module.parameters():
            parameter.add_(0.1)


fused_step = step(lambda p: torch.optim.Adam(p, fused=True))
CHANGES = {
    "SGD": step(lambda p: torch.optim.SGD(p, lr=0.1)),
    "Adam": step(torch.optim.Adam),
    "fused Adam": lambda module: (module.train(), fused_step(module), module.eval()),
    "fused Adam after a call in eval mode": lambda module: (module(torch.randn(3, 4)), fused_step(module)),
    "load_state_dict": load,
    "replaced parameter": replace_parameter,
    "replaced parameter in the same memory": replace_parameter_in_its_memory,
    "replaced data": replace_data,
    "there and back": lambda module: module.half().float(),
    "applied function": lambda module: module._apply(lambda tensor: tensor.data.mul_(2.0)),
    "in place": add_in_inference_mode,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@by_name
def test_changed_weights_show(name, change):
    module, input = build(name, dtype=torch.int8), torch.randn(3, 4)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        before = flat(module(input))
        assert module._storage._copies is not None
    change(module)
    with torch.no_grad():
        after = flat(module(input))
        assert_close(after, flat(rounded(module, torch.int8)(input)))
    assert not torch.equal(before[0], after[0])


@by_name
def test_copies_are_kept_until_a_weight_changes(name):
    module, input = build(name, dtype=torch.int8), torch.randn(3, 4)
    with torch.no_grad():
        module(input)
        copies = module._storage._copies
        module(input)
        assert module._storage._copies is copies
        next(module.parameters()).mul_(2.0)
        module(input)
        assert module._storage._copies is not copies


def test_a_change_through_data_shows_after_another_assignment():
    module, input = frozen(build("LSTMCell", dtype=torch.int8)), torch.randn(3, 4)
    before = module(input)
    module.weight_ih.data.mul_(2.0)
    assert torch.equal(module(input)[0], before[0])
    module.weight_dtype = torch.int8
    assert_close(module(input), rounded(module, torch.int8)(input))


@by_name
def test_the_rest_of_the_module_does_not_see_the_copies(name):
    module, plain, input = build(name, dtype=torch.int8), build(name), torch.randn(3, 4)
    with torch.no_grad():
        expected = flat(module(input))
    assert module.state_dict().keys() == plain.state_dict().keys()
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert clone.weight_dtype == torch.int8
        assert clone._storage._copies is None
        with torch.no_grad():
            assert_close(flat(clone(input)), expected, rtol=0, atol=0)
    assert repr(module) == repr(plain)[:-1] + ", weight_dtype=torch.int8)"
    module.weight_dtype = None
    assert repr(module) == repr(plain)
    assert vars(module).keys() == vars(plain).keys()
    with torch.no_grad():
        assert not uses_copies(module, input)


@by_name
def test_other_dtypes_are_refused(name):
    module = build(name, dtype=torch.bfloat16)
    for dtype in (torch.float16, torch.float32, "int8"):
        with pytest.raises(ValueError, match=r"weight_dtype: expected torch\.bfloat16, torch\.int8 or None, got"):
            module.weight_dtype = dtype
    assert module.weight_dtype == torch.bfloat16


@by_dtype
def test_convert_explain_and_revert(dtype):
    model = nn.ModuleDict(
        {"old": nn.LSTM(4, 6), "new": fastvision.nn.GRUCell(4, 6), "projected": nn.LSTM(4, 6, proj_size=3)}
    )
    keys = {name: vars(module).keys() for name, module in model.items()}
    converted = fastvision.convert(model, weight_dtype=dtype)
    assert [module.weight_dtype for module in converted.values()] == [dtype] * 3
    assert model["new"].weight_dtype is None
    name, error = ("int8", r"0\.[2-5]\d?") if dtype == torch.int8 else ("bfloat16", r"0\.[12]\d?")
    reasons = [row.reason for row in fastvision.explain(converted).rows]
    for reason, operator in zip(reasons, ("lstm", "gru_cell"), strict=False):
        expected = (
            rf"calls fastvision.ops.{operator}, in inference with weights in {name} \(rms error {error} % of theirs\)"
        )
        assert re.fullmatch(expected, reason)
    assert reasons[2] == f"calls fastvision.ops.lstm, of these parameters without copies in {name}"
    assert all(module.weight_dtype == dtype for module in fastvision.convert(converted).values())
    assert {name: vars(module).keys() for name, module in fastvision.revert(converted).items()} == keys


def test_convert_compares_before_it_stores():
    layer, input = nn.GRU(4, 6), torch.randn(3, 4)
    assert fastvision.convert(layer, input, weight_dtype=torch.int8).weight_dtype == torch.int8
    with pytest.raises(ValueError, match="weight_dtype: expected"):
        fastvision.convert(layer, inplace=True, weight_dtype=torch.float16)
    assert type(layer) is nn.GRU


# What docs/numerics.md says.
BOUNDS = {torch.bfloat16: (0.002, 0.002), torch.int8: (0.005, 0.006)}


@by_dtype
@by_name
def test_errors_of_weights_and_of_outputs(name, dtype):
    module = build(name, 128, 256, dtype=dtype)
    input = torch.randn(100 if name in ("LSTM", "GRU") else 1, 4, 128).squeeze(0)
    plain = copy.deepcopy(module)
    plain.weight_dtype = None
    with torch.no_grad():
        output, expected = flat(module(input))[0], flat(plain(input))[0]
    of_weights, of_output = BOUNDS[dtype]
    assert of_weights / 4 < module.weight_error() < of_weights
    error = ((output - expected).square().mean() / expected.square().mean()).sqrt().item()
    assert of_output / 8 < error < of_output
