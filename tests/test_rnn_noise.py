"""The modules' options zoneout and recurrent_dropout. What they compute is tested in test_rnn_masks.py."""

import copy
import pickle

import pytest
import torch
from rnn_cases import Sequences, has_kernel
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import fastvision

MODULES = ["LSTM", "GRU", "LSTMCell", "GRUCell"]
by_name = pytest.mark.parametrize("name", MODULES)
by_sequence = pytest.mark.parametrize("name", ["LSTM", "GRU"])
pytestmark = pytest.mark.usefixtures("one_thread")
needs_kernels = pytest.mark.skipif(not has_kernel(Sequences()), reason="no rnn kernels on this machine")


def build(name, *args, **options):
    torch.manual_seed(1)
    return getattr(fastvision.nn, name)(*(args or (4, 6)), **options)


def flat(results):
    if isinstance(results, tuple):
        return [tensor for result in results for tensor in flat(result)]
    return [] if results is None else [results]


def run(module, input, seed=None):
    if seed is not None:
        torch.manual_seed(seed)
    return flat(module(input))


def test_rates_are_those_of_the_draws():
    """With weights of zero and biases alone everything but the noise is known."""
    cell = fastvision.nn.LSTMCell(1, 50, zoneout=(0.3, 0.6), recurrent_dropout=0.25).requires_grad_(False)
    for parameter in cell.parameters():
        parameter.zero_()
    cell.bias_ih[100:150] = 20.0  # the candidate is 1
    old = torch.full((1000, 50), 3.0)
    h, c = cell(torch.zeros(1000, 1), (old, old))
    kept_h, kept_c, dropped = h == 3, c == 3, c == 1.5  # i = f = o = 1 / 2

    def near(value, expected):
        return abs(value.float().mean().item() - expected) < 0.02

    assert near(kept_h, 0.3)
    assert near(kept_c, 0.6)
    assert near(kept_h & kept_c, 0.3 * 0.6)
    assert near(dropped, 0.4 * 0.25)
    assert_close(c[~kept_c & ~dropped].unique(), torch.tensor([1.5 + 0.5 / 0.75]))
    # h' comes from the c' before zoneout: where both keep nothing, from one of its two values.
    assert_close(h[~kept_h].unique(), (0.5 * torch.tensor([1.5, 1.5 + 0.5 / 0.75]).tanh()))


@by_name
def test_seeds_repeat_the_noise(name):
    module = build(name, zoneout=0.4, recurrent_dropout=0.4)
    input = torch.randn(5, 3, 4) if "Cell" not in name else torch.randn(3, 4)
    assert_close(run(module, input, 1), run(module, input, 1), rtol=0, atol=0)
    assert not torch.equal(run(module, input, 1)[0], run(module, input, 2)[0])
    module.eval()
    assert_close(run(module, input, 1), run(module, input, 2), rtol=0, atol=0)


@by_name
def test_without_rates_it_is_the_module_without_them(name):
    plain, zero = build(name), build(name, zoneout=0, recurrent_dropout=0.0)
    assert vars(plain).keys() == vars(zero).keys()
    dropping = build(name, recurrent_dropout=0.5).eval()  # does nothing in evaluation
    input = torch.randn(3, 4)
    for module in (zero, dropping):
        assert_close(run(module, input), run(plain, input), rtol=0, atol=0)


INPUTS = {
    "batch": lambda: torch.randn(5, 3, 4),
    "unbatched": lambda: torch.randn(5, 4),
    "packed": lambda: pack_sequence([torch.randn(n, 4) for n in (3, 5, 2)], enforce_sorted=False),
}


@pytest.mark.parametrize("make_input", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("proj_size", [0, 3])
@by_sequence
def test_keeping_all_keeps_the_state(name, proj_size, make_input):
    if proj_size and name == "GRU":
        pytest.skip("GRU has no projections")
    options = {"proj_size": proj_size} if proj_size else {}
    module = build(name, 4, 6, 2, bidirectional=True, zoneout=1, recurrent_dropout=0.5, dropout=0.1, **options)
    input = make_input()
    batch = [] if isinstance(input, torch.Tensor) and input.dim() == 2 else [3]
    h, c = torch.randn(4, *batch, proj_size or 6), torch.randn(4, *batch, 6)
    output, states = module(input, (h, c) if name == "LSTM" else h)
    assert type(output) is type(input)
    assert_close(flat(states), [h, c] if name == "LSTM" else [h], rtol=0, atol=0)
    module.batch_first = True
    assert run(module, input)[0].shape[:-1] == flat(input)[0].shape[:-1]


@pytest.mark.parametrize("shape", [(3, 4), (4,), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_a_cell_is_a_layer_of_one_step(name, training, bias, shape):
    options = {"bias": bias, "zoneout": 0.4, "recurrent_dropout": 0.3}
    cell, layer = build(f"{name}Cell", **options).train(training), build(name, **options).train(training)
    for ours, theirs in zip(cell.parameters(), layer.parameters(), strict=True):
        theirs.data = ours.data
    input = torch.randn(shape)
    results = run(cell, input, 5)
    assert_close(results, [r.squeeze(0) for r in run(layer, input.unsqueeze(0), 5)[1:]])
    grads = [
        torch.autograd.grad(run(m, i, 5)[0].sum(), list(m.parameters()))
        for m, i in ((cell, input), (layer, input.unsqueeze(0)))
    ]
    assert_close(*grads)


BAD_RATES = [-0.1, 1.5, True, "0.5", None, float("nan"), (0.1, 0.2, 0.3), (0.1, 2.0)]


@pytest.mark.parametrize("rate", BAD_RATES, ids=str)
@by_name
def test_rates_must_be_probabilities(name, rate):
    for option in ("zoneout", "recurrent_dropout"):
        with pytest.raises(ValueError, match=f"{option} should be a number"):
            build(name, **{option: rate})
    if "GRU" in name:
        with pytest.raises(ValueError, match="zoneout should be a number in range"):
            build(name, zoneout=(0.1, 0.2))


@by_name
def test_options_are_shown_kept_and_changed(name):
    both_states = (0.25, 0.5) if "LSTM" in name else 0.25
    module = build(name, zoneout=both_states, recurrent_dropout=0.125)
    assert repr(module) == f"{name}(4, 6, zoneout={both_states}, recurrent_dropout=0.125)"
    input = torch.randn(3, 4)
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert (clone.zoneout, clone.recurrent_dropout) == (both_states, 0.125)
        assert_close(run(clone, input, 1), run(module, input, 1))
    module.zoneout = module.recurrent_dropout = 0
    assert repr(module) == f"{name}(4, 6)"
    assert_close(run(module, input), run(build(name), input))


@by_name
def test_converted_layers_have_the_options(name):
    stock = getattr(nn, name)(4, 6)
    layer = fastvision.convert(stock)
    assert (layer.zoneout, layer.recurrent_dropout) == (0.0, 0.0)
    assert (
        fastvision.explain(layer).rows[0].reason.startswith(f"calls fastvision.ops.{'lstm' if 'L' in name else 'gru'}")
    )
    layer.zoneout = 1.0
    torch.manual_seed(1)
    input = torch.randn(3, 4)
    assert not torch.equal(run(layer, input)[0], run(stock, input)[0])
    layer.zoneout, layer.recurrent_dropout = 0.0, 0.5
    for training in (True, False):
        row = fastvision.explain(layer.train(training)).rows[0]
        assert row.status == "replaced"
        assert ("regularized_rnn" in row.reason) == training
    assert type(fastvision.revert(layer)) is getattr(fastvision.nn, name)  # stock has no such layer
    layer.recurrent_dropout = 0
    assert type(fastvision.revert(layer)) is getattr(nn, name)


class Block(nn.Module):
    def __init__(self, name, **options):
        super().__init__()
        self.inner = build(name, **options)

    def forward(self, input):
        return self.inner(input)


@by_name
def test_compiles_as_one_graph(name):
    torch.compiler.reset()
    module = Block(name, zoneout=0.4, recurrent_dropout=0.4)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    input = torch.randn(3, 4)
    with torch.no_grad():
        assert_close(run(compiled, input, 1), run(module, input, 1))
    grads = [torch.autograd.grad(run(m, input, 1)[0].sum(), list(module.parameters())) for m in (compiled, module)]
    assert_close(*grads)
    module.eval()
    assert_close(run(compiled, input), run(module, input))


@needs_kernels
@by_sequence
def test_a_graph_serves_all_lengths(name):
    torch.compiler.reset()
    module = Block(name, zoneout=0.4, recurrent_dropout=0.4, bidirectional=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    parameters = list(module.parameters())
    for make_input in (
        lambda n: torch.randn(n, 3, 4),
        lambda n: pack_sequence([torch.randn(k, 4) for k in (3, n, 2)], enforce_sorted=False),
    ):
        for length in (5, 7):
            input = make_input(length)
            outputs = [run(m, input, 1)[0] for m in (compiled, module)]
            assert_close(*outputs)
            assert_close(*(torch.autograd.grad(output.sum(), parameters) for output in outputs))


@by_name
def test_autocast(name):
    module, plain = build(name, zoneout=0.4).eval(), getattr(nn, name)(4, 6)
    input = torch.randn(3, 4)
    expected = run(module, input)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(module, input)
        if "Cell" in name:  # oneDNN's LSTM in bfloat16 needs AVX-512
            assert [t.dtype for t in actual] == [t.dtype for t in run(plain, input)]
    assert_close(actual, expected, rtol=0.05, atol=0.05, check_dtype=False)


@by_name
def test_tracers(name):
    module = Block(name, zoneout=0.4).eval()
    input = torch.randn(3, 4)
    graph = torch.fx.symbolic_trace(module)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["inner"]
    assert_close(run(torch.jit.trace(module, input), input), run(module, input))


@by_name
def test_meta_device(name):
    module = build(name, zoneout=0.4, device="meta")
    plain = build(name)
    assert [t.shape for t in run(module, torch.empty(3, 4, device="meta"))] == [
        t.shape for t in run(plain, torch.empty(3, 4))
    ]
