"""The rnn operators and modules among torch's other machinery: opcheck, compile, export, autocast, tracing, modes."""

import pytest
import torch
from rnn_cases import CELLS, SAMPLES, Sequences, has_kernel, layer_arguments, with_requires_grad
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.testing import assert_close

import fastvision

OPS = torch.ops.fastvision
SEQUENCES, MODULES = ["LSTM", "GRU"], ["LSTM", "GRU", "LSTMCell", "GRUCell"]
by_name = pytest.mark.parametrize("name", MODULES)
by_sequence = pytest.mark.parametrize("name", SEQUENCES)
pytestmark = pytest.mark.usefixtures("one_thread")
# What the reference, stock's call, can't do under the compiler.
needs_kernels = pytest.mark.skipif(not has_kernel(Sequences()), reason="no rnn kernels on this machine")

# One layer each.
LAYERS = [f"{mode}_{name}" for mode in ("lstm", "gru") for name in ("plain", "no_bias", "packed", "bfloat16")]


class Block(nn.Module):
    """A model that has one of our modules, or stock's, inside."""

    def __init__(self, name, namespace=fastvision.nn, *args, **options):
        super().__init__()
        torch.manual_seed(1)
        self.inner = getattr(namespace, name)(*(args or (4, 6)), **options)

    def forward(self, input, hx=None):
        return self.inner(input, hx)


def flat(results):
    if isinstance(results, tuple):
        return [tensor for result in results for tensor in flat(result)]
    return [] if results is None else [results]


def packed(kind, lengths=(3, 5, 2)):
    generator = torch.Generator().manual_seed(2)
    if kind == "sorted":
        lengths = sorted(lengths, reverse=True)
        return pack_padded_sequence(torch.randn(lengths[0], len(lengths), 4, generator=generator), lengths)
    return pack_sequence([torch.randn(n, 4, generator=generator) for n in lengths], enforce_sorted=False)


@pytest.mark.parametrize("name", LAYERS)
def test_opcheck_of_a_layer(name):
    torch.library.opcheck(OPS.rnn_layer.default, layer_arguments(SAMPLES[name]))


# In bfloat16 the reference, which takes over where sizes are symbolic, rounds elsewhere.
@needs_kernels
@pytest.mark.parametrize("name", [name for name in LAYERS if "bfloat16" not in name])
def test_opcheck_of_training(name):
    arguments = layer_arguments(SAMPLES[name])
    torch.library.opcheck(OPS.rnn_layer.default, with_requires_grad(arguments))
    torch.library.opcheck(OPS.rnn_layer_with_reserve.default, arguments)
    output, hy, cy, reserve = OPS.rnn_layer_with_reserve(*arguments)
    gradients = (
        torch.ones_like(output),
        torch.ones_like(hy),
        torch.ones_like(cy) if arguments[2] is not None else None,
    )
    for mask in ((True,) * 4, (False, True, False, True)):
        torch.library.opcheck(OPS.rnn_layer_backward.default, (*gradients, *arguments, output, reserve, mask))


@pytest.mark.parametrize("name", ["lstm_plain", "gru_plain", "lstm_no_bias", "gru_bfloat16"])
def test_opcheck_of_cells(name):
    operator = getattr(OPS, f"{CELLS[name].mode}_cell").default
    torch.library.opcheck(operator, CELLS[name].tensors())
    torch.library.opcheck(operator, with_requires_grad(CELLS[name].tensors()))


@by_name
def test_compiles_as_one_graph(name):
    torch.compiler.reset()
    ours, stock = Block(name), Block(name, nn)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    input = torch.randn(3, 4)
    with torch.no_grad():
        assert_close(flat(compiled(input)), flat(stock(input)))
        alone = torch.compile(ours.inner, fullgraph=True, backend="aot_eager")
        assert_close(flat(alone(input)), flat(stock(input)))


@needs_kernels
@by_sequence
def test_compiled_training(name):
    torch.compiler.reset()
    ours, stock = Block(name, bidirectional=True), Block(name, nn, bidirectional=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for input in (torch.randn(5, 3, 4), packed("unsorted"), packed("sorted")):
        gradients = []
        for module in (compiled, stock):
            loss = flat(module(input))[0].square().sum()
            gradients.append(
                torch.autograd.grad(loss, list(stock.parameters() if module is stock else ours.parameters()))
            )
        assert_close(*gradients)


@needs_kernels
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", ["sorted", "unsorted"])
@by_sequence
def test_packed_sequences_compile_as_one_graph(name, kind, with_state):
    torch.compiler.reset()
    ours, stock = Block(name, num_layers=2).requires_grad_(False), Block(name, nn, num_layers=2)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    state = torch.randn(2, 3, 6)
    hx = None if not with_state else (state, state) if name == "LSTM" else state
    input = packed(kind)
    actual = compiled(input, hx)
    assert isinstance(actual[0], PackedSequence)
    assert_close(flat(actual), flat(stock(input, hx)))


@by_sequence
def test_stocks_modules_break_the_graph_as_before(name):
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
        torch.compile(Block(name, nn), fullgraph=True, backend="eager")(torch.randn(3, 4))
    assert not torch._dynamo.config.allow_rnn


@needs_kernels
@by_sequence
def test_ten_lengths_compile_once(name):
    torch.compiler.reset()
    ours, stock = Block(name, batch_first=True).requires_grad_(False), Block(name, nn, batch_first=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours, fullgraph=True, backend=counter, dynamic=True)
    graphs = set()  # how many there were after each length
    for length in range(3, 13):
        input = torch.randn(2, length, 4)
        assert_close(flat(compiled(input)), flat(stock(input)))
        graphs.add(counter.frame_count)
    assert len(graphs) == 1


@needs_kernels
@by_sequence
def test_ten_packed_lengths_compile_once(name):
    torch.compiler.reset()
    ours, stock = Block(name).requires_grad_(False), Block(name, nn)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours, fullgraph=True, backend=counter, dynamic=True)
    graphs = set()  # how many there were after each length
    for length in range(5, 15):  # Dynamo takes sizes that are equal at first, the batch's 3, say, for one
        input = packed("unsorted", (length - 1, length, 2))
        assert_close(flat(compiled(input)), flat(stock(input)))
        graphs.add(counter.frame_count)
    assert len(graphs) == 1


@needs_kernels
@by_sequence
def test_exports_with_a_free_length(name):
    ours, stock = Block(name).eval(), Block(name, nn)
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(ours, (torch.randn(5, 3, 4),), dynamic_shapes=({0: length},))
    for steps in (2, 7):
        input = torch.randn(steps, 3, 4)
        assert_close(flat(program.module()(input)), flat(stock(input)))


@by_name
def test_exports(name):
    ours = Block(name).eval().requires_grad_(False)
    input = torch.randn(3, 4)
    program = torch.export.export(ours, (input,))
    assert any("fastvision." in str(node.target) for node in program.graph.nodes)
    assert_close(flat(program.module()(input)), flat(ours(input)))


@pytest.mark.slow
@by_name
def test_inductor(name):
    torch.compiler.reset()
    ours, stock = Block(name).requires_grad_(False), Block(name, nn)
    input = torch.randn(3, 4)
    assert_close(flat(torch.compile(ours, fullgraph=True)(input)), flat(stock(input)))


@by_name
def test_tracers_see_stocks_module(name):
    ours = Block(name).eval()
    graph = torch.fx.symbolic_trace(ours)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["inner"]
    input = torch.randn(3, 4)
    assert_close(flat(graph(input, None)), flat(ours(input)))
    assert "fastvision::" not in str(torch.jit.trace(ours, input).inlined_graph)


@pytest.mark.parametrize("with_state", [False, True])
@by_name
def test_autocast_gives_stocks_dtypes(name, with_state):
    ours, stock = Block(name), Block(name, nn)
    input = torch.randn(3, 4)
    state = torch.randn(1, 6) if name in SEQUENCES else torch.randn(3, 6)
    hx = None if not with_state else (state, state) if name.startswith("LSTM") else state
    with torch.autocast("cpu", torch.bfloat16):
        try:
            expected = flat(stock(input, hx))
        except RuntimeError as error:
            pytest.skip(f"stock can't on this machine: {error}")  # oneDNN's LSTM in bfloat16 needs AVX-512
        actual = flat(ours(input, hx))
    assert [t.dtype for t in actual] == [t.dtype for t in expected]
    assert_close(actual, expected, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert flat(ours(input))[0].dtype == torch.float32


@pytest.mark.parametrize("kind", ["packed", "projected", "empty", "without oneDNN"])
def test_autocast_of_an_lstm_that_is_not_onednns_gives_stocks_dtypes(kind):
    options = {"proj_size": 3} if kind == "projected" else {}
    ours, stock = fastvision.nn.LSTM(4, 6, **options), nn.LSTM(4, 6, **options)
    input = packed("sorted", (5, 3)) if kind == "packed" else torch.randn(5, 0 if kind == "empty" else 3, 4)
    with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=kind != "without oneDNN"):
        dtypes = [[t.dtype for t in flat(module(input))] for module in (ours, stock)]
    assert dtypes[0] == dtypes[1]


@by_sequence
def test_autocast_takes_any_input_dtype(name):
    with torch.autocast("cpu", torch.bfloat16):
        dtypes = [
            [t.dtype for t in flat(Block(name, space)(torch.randn(3, 4).bfloat16()))] for space in (fastvision.nn, nn)
        ]
    assert dtypes[0] == dtypes[1]


@by_name
def test_inference_mode(name, capability):
    ours = Block(name)
    input = torch.randn(3, 4)
    with torch.inference_mode():
        results = flat(ours(input))
    assert all(t.is_inference() for t in results)
    assert_close(results, flat(ours(input)))


@by_name
def test_functional_gradients(name):
    ours, stock = Block(name), Block(name, nn)
    input = torch.randn(3, 4)

    def loss(module):
        def of(parameters):
            return flat(torch.func.functional_call(module, parameters, (input,)))[0].square().sum()

        return of

    parameters = dict(ours.named_parameters())
    assert_close(torch.func.grad(loss(ours))(parameters), torch.func.grad(loss(stock))(parameters))
