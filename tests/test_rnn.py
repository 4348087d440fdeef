"""The operators lstm, gru, lstm_cell and gru_cell against stock PyTorch in float64."""

import pytest
import torch
from hypothesis import given, settings
from rnn_cases import (
    CELLS,
    SAMPLES,
    Cell,
    Sequences,
    assert_near,
    gradients,
    sequences,
    with_requires_grad,
)

import fastvision
from fastvision.ops import (
    gru,
    gru_cell,
    gru_cell_reference,
    gru_reference,
    lstm,
    lstm_cell,
    lstm_cell_reference,
    lstm_reference,
)

pytestmark = pytest.mark.usefixtures("one_thread")
by_sample = pytest.mark.parametrize("problem", SAMPLES.values(), ids=SAMPLES)
by_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
CELL_FUNCTIONS = {"lstm": lstm_cell, "gru": gru_cell}
STOCK_CELLS = {"lstm": torch.lstm_cell, "gru": torch.gru_cell}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def in_double(tensors):
    return tuple(None if t is None else t.double() for t in tensors)


@by_sample
def test_samples(problem, capability):
    tensors = problem.tensors()
    actual, stock = problem.run(tensors), problem.stock(tensors)
    assert_near(actual, problem.exact(tensors), problem.dtype)
    assert [a.shape for a in actual] == [s.shape for s in stock]
    assert [a.stride() for a in actual] == [s.stride() for s in stock]


@settings(max_examples=60)
@given(sequences(DTYPES))
def test_any_sequences(problem):
    tensors = problem.tensors()
    assert_near(problem.run(tensors), problem.exact(tensors), problem.dtype)


@pytest.mark.parametrize("input_size", [12, 13])
@pytest.mark.parametrize("hidden_size", [34, 35])
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_bfloat16_of_even_and_odd_sizes(mode, hidden_size, input_size, capability):
    # Processors multiply bfloat16 in pairs, which fit even sizes; results are as exact in both.
    problem = Sequences(
        mode=mode, batch=9, steps=7, input_size=input_size, hidden_size=hidden_size, dtype=torch.bfloat16
    )
    tensors = problem.tensors()
    exact = problem.exact(tensors)[0]
    errors = [(run(tensors)[0].double() - exact).square().mean().sqrt() for run in (problem.run, problem.stock)]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_a_nan_in_one_sequence_of_bfloat16_does_not_touch_another(mode, capability):
    problem = Sequences(mode=mode, batch=9, steps=7, input_size=12, hidden_size=34, dtype=torch.bfloat16)
    tensors = problem.tensors()
    tensors[0][3, 4] = torch.nan
    output = problem.run(tensors)[0]
    reached = output.isnan().any(-1)
    assert reached[3:, 4].all()
    assert reached.sum() == 4


@by_sample
def test_gradients(problem, capability):
    tensors = with_requires_grad(problem.tensors())
    actual = gradients(problem.run(tensors), tensors)
    exact = gradients(problem.exact(tensors), tensors)
    assert_near(actual, exact, problem.dtype, factor=64)


@settings(max_examples=40)
@given(sequences())
def test_gradients_of_any_sequences(problem):
    tensors = with_requires_grad(problem.tensors())
    assert_near(gradients(problem.run(tensors), tensors), gradients(problem.exact(tensors), tensors), problem.dtype, 64)


@pytest.mark.parametrize("wanted", ["output", "hy", "input only", "weights only"])
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_some_gradients_only(mode, wanted, capability):
    problem = Sequences(mode=mode, bidirectional=True)
    grads = []
    for function in (problem.run, problem.stock):
        input, states, params, batch_sizes = problem.tensors()
        if wanted != "weights only":
            input.requires_grad_()
        if wanted != "input only":
            params = with_requires_grad(params)
        results = function((input, states, params, batch_sizes))
        loss = results[wanted == "hy"].square().sum()
        inputs = [t for t in (input, *params) if t.requires_grad]
        grads.append(torch.autograd.grad(loss, inputs))
    torch.testing.assert_close(*grads)


@by_cell
def test_cells(cell, capability):
    tensors = cell.tensors()
    actual = cell.call(CELL_FUNCTIONS[cell.mode], tensors)
    assert_near(actual, cell.call(STOCK_CELLS[cell.mode], in_double(tensors)), cell.dtype)


@by_cell
def test_gradients_of_cells(cell, capability):
    tensors = with_requires_grad(cell.tensors())
    actual = gradients(cell.call(CELL_FUNCTIONS[cell.mode], tensors), tensors)
    exact = gradients(cell.call(STOCK_CELLS[cell.mode], in_double(tensors)), tensors)
    assert_near(actual, exact, cell.dtype, factor=64)


TINY = [
    Sequences(mode=mode, steps=3, batch=2, input_size=2, hidden_size=2, dtype=torch.float64, **options)
    for mode in ("lstm", "gru")
    for options in ({"bidirectional": True}, {"lengths": (3, 1)}, {"layers": 2, "bias": False})
]


@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_gradcheck(problem):
    input, states, params, batch_sizes = problem.tensors()
    count = len(states)

    def function(input, *rest):
        return problem.run((input, list(rest[:count]), list(rest[count:]), batch_sizes))

    arguments = with_requires_grad((input, *states, *params))
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments, atol=1e-4)


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_second_derivatives_in_float32(mode, capability):
    # Of what kernels computed.
    seconds = []
    for function in ("run", "stock"):
        problem = Sequences(mode=mode, lengths=(4, 2))
        tensors = with_requires_grad(problem.tensors())
        output = getattr(problem, function)(tensors)[0]
        (grad,) = torch.autograd.grad(output.square().sum(), tensors[0], create_graph=True)
        seconds.append(torch.autograd.grad(grad.square().sum(), [tensors[0], *tensors[2]]))
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_gradcheck_of_cells(mode):
    cell = Cell(mode=mode, batch=2, input_size=2, hidden_size=2, dtype=torch.float64)
    arguments = with_requires_grad(cell.tensors())

    def function(*arguments):
        return cell.call(CELL_FUNCTIONS[mode], arguments)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@by_sample
def test_disabled_kernels_run_the_reference_bit_for_bit(problem, capability):
    tensors = problem.tensors()
    reference = {"lstm": lstm_reference, "gru": gru_reference}[problem.mode]
    with fastvision.backends.enabled(False):
        actual = problem.run(tensors)
    for results in (actual, problem.call(reference, *tensors)):
        for a, s in zip(results, problem.stock(tensors), strict=True):
            assert torch.equal(a, s)


def test_references_of_cells_are_stocks():
    assert lstm_cell_reference is torch.lstm_cell
    assert gru_cell_reference is torch.gru_cell


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_nan_stays_in_its_sequence(mode, capability):
    problem = Sequences(mode=mode, batch=9, layers=2, bidirectional=True)
    input, *rest = problem.tensors()
    clean = problem.run((input, *rest))
    input = input.clone()
    input[2, 4] = torch.nan
    dirty = problem.run((input, *rest))
    others = [i for i in range(9) if i != 4]
    assert dirty[0][:, 4].isnan().all()
    for c, d in zip(clean, dirty, strict=True):
        torch.testing.assert_close(d[:, others], c[:, others])


@pytest.mark.parametrize("function", [lstm, gru])
def test_arguments_by_name(function):
    problem = Sequences(mode=function.__name__, lengths=(3, 2))
    input, states, params, batch_sizes = problem.tensors()
    hx = states if function is lstm else states[0]
    options = dict(params=params, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False)
    packed = function(data=input, batch_sizes=batch_sizes, hx=hx, **options)
    assert torch.equal(packed[0], problem.run((input, states, params, batch_sizes))[0])
    padded = function(input=input[:, None].expand(-1, 2, -1), hx=hx, batch_first=False, **options)
    assert padded[0].shape == (5, 2, 6)
    with pytest.raises(TypeError):
        function(input)


def test_a_pair_of_states_is_expected():
    input, h, c, *weights = Cell().tensors()
    for states in ((h,), (h, c, c)):
        with pytest.raises(RuntimeError, match=f"hx: expected two states, h and c, got {len(states)}"):
            lstm_cell(input, states, *weights)
