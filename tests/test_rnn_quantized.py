"""The operator rnn_layer_quantized: layers of LSTM and GRU from weights in bfloat16 or int8, against float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rnn_cases import CELLS, SAMPLES, Sequences, assert_near, sequences
from torch.testing import assert_close

from fastvision.nn.storage import dequantize, quantize

layer_quantized = torch.ops.fastvision.rnn_layer_quantized
STORED = (torch.bfloat16, torch.int8)
by_dtype = pytest.mark.parametrize("dtype", STORED, ids=str)
pytestmark = pytest.mark.usefixtures("one_thread")

# One layer each.
LAYERS = {name: replace(problem, layers=1, projection=0, batch_first=False) for name, problem in SAMPLES.items()}


def quantized(params, bias, dtype):
    """The operator's weights, scales and biases, and the parameters that they stand for in float64."""
    step = 4 if bias else 2
    weights, scales, biases, exact = [], [], [], []
    for i in range(0, len(params), step):
        for matrix in params[i : i + 2]:
            stored, scale = quantize(matrix, dtype)
            weights.append(stored)
            scales += [] if scale is None else [scale]
            exact.append(dequantize(stored, scale).double())
        biases += params[i + 2 : i + step]
        exact += [b.double() for b in params[i + 2 : i + step]]
    return weights, scales, biases, exact


def layer_arguments(problem, dtype):
    """The operator's arguments for a problem of one layer, and the exact results."""
    input, states, params, batch_sizes = problem.tensors()
    weights, scales, biases, exact = quantized(params, problem.bias, dtype)
    cx = states[1] if problem.mode == "lstm" else None
    expected = problem.exact((input, states, exact, batch_sizes))
    return (input, states[0], cx, weights, scales, biases, batch_sizes), expected


def assert_layer_is_exact(problem, dtype):
    arguments, expected = layer_arguments(problem, dtype)
    actual = layer_quantized(*arguments)
    assert_near(actual[: len(expected)], expected, problem.dtype)
    assert all(a.is_contiguous() for a in actual)


@by_dtype
@pytest.mark.parametrize("problem", LAYERS.values(), ids=LAYERS)
def test_samples(problem, dtype, capability):
    assert_layer_is_exact(problem, dtype)


@settings(max_examples=80)
@given(sequences((torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)), st.sampled_from(STORED))
def test_any_layer(problem, dtype):
    assert_layer_is_exact(replace(problem, layers=1, batch_first=False), dtype)


@settings(max_examples=40)
@given(sequences(), st.sampled_from(STORED))
def test_one_row_of_any_size(problem, dtype):
    assert_layer_is_exact(replace(problem, layers=1, batch_first=False, lengths=None, batch=1), dtype)


@pytest.mark.parametrize("batch", [1, 6, 7, 33])
@by_dtype
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cells(cell, dtype, batch, capability):
    cell = replace(cell, batch=batch)
    input, *states, w_ih, w_hh, b_ih, b_hh = cell.tensors()
    params = [w_ih, w_hh, b_ih, b_hh] if cell.bias else [w_ih, w_hh]
    weights, scales, biases, exact = quantized(params, cell.bias, dtype)
    output, *actual = layer_quantized(input, states[0], *(states[1:] or [None]), weights, scales, biases, None)
    assert torch.equal(output, actual[0])
    stock = {"lstm": torch.lstm_cell, "gru": torch.gru_cell}[cell.mode]
    expected = cell.call(stock, (input.double(), *(s.double() for s in states), *exact, *[None] * (4 - len(exact))))
    assert_near(actual[: len(states)], expected, cell.dtype)


def test_int8_is_within_half_a_step_of_every_weight():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(50, 33, generator=generator) * torch.logspace(-30, 30, 50).unsqueeze(1)
    stored, scale = quantize(weight, torch.int8)
    assert (stored.abs().amax(1) == 127).all()
    assert ((dequantize(stored, scale) - weight).abs() <= 0.501 * scale.unsqueeze(1)).all()


def test_bfloat16_is_rounded():
    weight = torch.randn(5, 3)
    stored, scale = quantize(weight, torch.bfloat16)
    assert scale is None
    assert torch.equal(dequantize(stored, scale), weight.bfloat16().float())


def test_rows_of_zeros_and_of_almost_zeros():
    weight = torch.tensor([[0.0, 0.0], [1e-45, -1e-45], [1e-38, 0.0], [3e38, -3e38]])
    stored, scale = quantize(weight, torch.int8)
    assert_close(dequantize(stored, scale), weight, rtol=1e-6, atol=1e-40)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_a_row_with_a_value_that_is_not_finite_is_nan(mode, batch, value, capability):
    input, states, params, _ = Sequences(mode=mode, steps=1, batch=batch).tensors()
    params[0][1, 2] = value  # of unit 1
    weights, scales, biases, _ = quantized(params, True, torch.int8)
    hy = layer_quantized(input, states[0], *(states[1:] or [None]), weights, scales, biases, None)[1]
    assert hy[..., 1].isnan().all()
    assert hy[..., [0, 2, 3, 4, 5]].isfinite().all()


@by_dtype
@pytest.mark.parametrize("name", ["lstm_plain", "gru_no_bias", "lstm_packed", "gru_packed_both_ways", "gru_float16"])
def test_opcheck(name, dtype):
    torch.library.opcheck(layer_quantized.default, layer_arguments(LAYERS[name], dtype)[0])


def test_opcheck_of_a_cell():
    input, states, params, _ = Sequences(steps=1).tensors()
    torch.library.opcheck(
        layer_quantized.default, (input[0], states[0][0], states[1][0], *quantized(params, True, torch.int8)[:3], None)
    )


def test_there_is_no_gradient():
    arguments, _ = layer_arguments(LAYERS["lstm_plain"], torch.int8)
    for index in (0, 1, 2, 4, 5):  # all but the weights
        tensors = list(arguments)
        tensors[index] = torch.utils._pytree.tree_map(lambda t: t.detach().requires_grad_(), tensors[index])
        with pytest.raises(RuntimeError, match="has no gradient: expected"):
            layer_quantized(*tensors)
        with torch.no_grad():
            layer_quantized(*tensors)


def test_forward_derivatives_are_those_of_the_reference():
    arguments, _ = layer_arguments(LAYERS["gru_plain"], torch.bfloat16)
    input, tangent = arguments[0], torch.ones_like(arguments[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(input, tangent)
        derivative = torch.autograd.forward_ad.unpack_dual(layer_quantized(dual, *arguments[1:])[0]).tangent
    step = 1e-2
    difference = layer_quantized(input + step, *arguments[1:])[0] - layer_quantized(input - step, *arguments[1:])[0]
    assert_close(derivative, difference / (2 * step), rtol=1e-2, atol=1e-3)


def test_functional_gradients_are_those_of_the_reference():
    arguments, _ = layer_arguments(LAYERS["gru_plain"], torch.int8)
    problem, exact = LAYERS["gru_plain"], quantized(LAYERS["gru_plain"].tensors()[2], True, torch.int8)[3]

    def loss(input):
        return layer_quantized(input, *arguments[1:])[0].square().sum()

    def stock_loss(input):
        return problem.stock((input, [arguments[1]], [p.float() for p in exact], None))[0].square().sum()

    assert_close(torch.func.grad(loss)(arguments[0]), torch.func.grad(stock_loss)(arguments[0]))


ODD_ARGUMENTS = {
    "input: expected a dense floating point": {"input": lambda t: t.int()},
    "input: expected a dense floating point tensor of 3": {"input": lambda t: t[0, 0]},
    "input: expected hx's batch": {"input": lambda t: t[:, :2]},
    "hx: expected shape": {"hx": lambda t: t.double()},
    r"hx: expected shape \(1 or 2 directions": {"hx": lambda t: torch.cat([t, t, t])},
    "cx: expected shape": {"cx": lambda t: t[..., :-1]},
    "cx: expected shape .* on cpu, got .* on meta": {"cx": lambda t: t.to("meta")},
    "weights: expected 2 tensors": {"weights": lambda w: w[:1]},
    "weights: expected dtype int8 or bfloat16, got Float": {"weights": lambda w: [t.float() for t in w]},
    "weights: expected shape .* and dtype Char": {"weights": lambda w: [w[0], w[1].bfloat16()]},
    r"weights: expected shape \[24, 6\]": {"weights": lambda w: [w[0], w[1][:, 1:]]},
    r"weights: expected shape \[24, 4\]": {"weights": lambda w: [w[0][1:], w[1]]},
    "weights: expected shape .* on cpu, got .* on meta": {"weights": lambda w: [w[0], w[1].to("meta")]},
    "scales: expected 2 tensors": {"scales": lambda s: []},
    r"scales: expected shape \[24\]": {"scales": lambda s: [s[0], s[1][1:]]},
    "scales: expected shape .* and dtype Float": {"scales": lambda s: [s[0].double(), s[1]]},
    "scales: expected 0 tensors": {"weights": lambda w: [t.bfloat16() for t in w]},
    "biases: expected none or 2": {"biases": lambda b: b[:1]},
    r"biases: expected shape \[24\]": {"biases": lambda b: [b[0], b[1][:-1]]},
    "biases: expected shape .* and dtype Float": {"biases": lambda b: [b[0], b[1].half()]},
    "input: expected a dense floating point tensor of 2": {"batch_sizes": lambda _: torch.tensor([3, 3])},
    "batch_sizes: expected int64": {"input": lambda t: t[0], "batch_sizes": lambda _: torch.ones(1)},
    "batch_sizes: expected sizes of at least 1": {"input": lambda t: t[0], "batch_sizes": lambda _: torch.tensor([4])},
    "batch_sizes: expected a sum": {"input": lambda t: t[0], "batch_sizes": lambda _: torch.tensor([3, 3])},
}


@pytest.mark.parametrize(("message", "changes"), ODD_ARGUMENTS.items(), ids=ODD_ARGUMENTS)
def test_odd_arguments(message, changes, capability):
    names = ("input", "hx", "cx", "weights", "scales", "biases", "batch_sizes")
    arguments = dict(zip(names, layer_arguments(LAYERS["lstm_plain"], torch.int8)[0], strict=True))
    for name, change in changes.items():
        arguments[name] = change(arguments[name])
    with pytest.raises(RuntimeError, match=message):
        layer_quantized(**arguments)
