"""The operators of layers with noise (zoneout, recurrent dropout) against a plain loop over the steps in float64."""

import itertools

import pytest
import torch
from rnn_cases import Sequences, assert_near, gradients, has_kernel, layer_arguments, leaves, with_requires_grad
from torch.testing import assert_close

OPS = torch.ops.fastvision
pytestmark = pytest.mark.usefixtures("one_thread")
needs_kernels = pytest.mark.skipif(not has_kernel(Sequences()), reason="no rnn kernels on this machine")


def both(**options):
    return [Sequences(mode=mode, **options) for mode in ("lstm", "gru")]


ONE_LAYER = {
    f"{problem.mode}_{name}": problem
    for name, options in {
        "plain": {},
        "wide": {"steps": 7, "batch": 9, "input_size": 33, "hidden_size": 70},
        "one_row": {"batch": 1, "hidden_size": 37, "steps": 20},
        "one_step": {"batch": 9, "steps": 1, "hidden_size": 20},
        "no_bias": {"bias": False},
        "both_ways": {"bidirectional": True},
        "packed": {"lengths": (5, 3, 3, 1)},
        "packed_both_ways": {"lengths": (6, 4, 1), "bidirectional": True},
        "strided": {"layout": "sliced", "weight_layout": "transposed"},
        "bfloat16": {"dtype": torch.bfloat16},
        "float16": {"dtype": torch.float16},
        "float64": {"dtype": torch.float64},
    }.items()
    for problem in both(**options)
}
by_problem = pytest.mark.parametrize("problem", ONE_LAYER.values(), ids=ONE_LAYER)

STACKS = {
    f"{problem.mode}_{name}": problem
    for name, options in {
        "deep": {"layers": 3, "bidirectional": True},
        "batch_first": {"batch_first": True},
        "packed": {"lengths": (6, 4, 1), "layers": 2, "bidirectional": True},
        "float64": {"dtype": torch.float64},
    }.items()
    for problem in both(**options)
} | {
    "lstm_projected": Sequences(projection=4, layers=2, bidirectional=True),
    "lstm_projected_packed": Sequences(projection=2, bias=False, lengths=(4, 4, 2)),
}


def draw_masks(problem, seed=7):
    """Some elements keep their state, some are mixed, some change; candidates are dropped or scaled."""
    input, states, _, batch_sizes = problem.tensors()
    rows = input.shape[0] if batch_sizes is not None else problem.steps * problem.batch
    shape = (states[0].shape[0], rows, len(states) + 1, problem.hidden_size)
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(3).sub(1).clamp(0, 1)
    masks[:, :, -1] *= 2
    return masks.double() if problem.dtype == torch.float64 else masks


def step_of(x, h, c, params, masks):
    """The formulas of fastvision.ops.rnn, for one row. The last mask is the candidate's."""
    w_ih, w_hh, *rest = params
    biases, w_hr = (rest[:2], rest[2:]) if len(rest) >= 2 else ([0, 0], rest)
    a, u = w_ih @ x + biases[0], w_hh @ h + biases[1]
    k = masks[0][: h.shape[0]]
    if c is None:
        (a_r, a_z, a_n), (u_r, u_z, u_n) = a.chunk(3), u.chunk(3)
        r, z = torch.sigmoid(a_r + u_r), torch.sigmoid(a_z + u_z)
        n = masks[1] * torch.tanh(a_n + r * u_n)
        return k * h + (1 - k) * ((1 - z) * n + z * h), None
    i, f, g, o = (a + u).chunk(4)
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * masks[2] * torch.tanh(g)
    new_h = torch.sigmoid(o) * torch.tanh(new_c)
    if w_hr:
        new_h = w_hr[0] @ new_h
    return k * h + (1 - k) * new_h, masks[1] * c + (1 - masks[1]) * new_c


def loop(input, hx, cx, params, batch_sizes, masks):
    """One layer, sequence by sequence. Input is (steps, batch, size) or packed; results as rnn_layer's."""
    steps = input.shape[0] if batch_sizes is None else len(batch_sizes)
    sizes = [hx.shape[1]] * steps if batch_sizes is None else batch_sizes.tolist()
    offsets = [0, *itertools.accumulate(sizes)]
    rows = input.reshape(-1, input.shape[-1])
    directions, count = hx.shape[0], len(params) // hx.shape[0]
    outputs = [[None] * len(rows) for _ in range(directions)]
    last_h, last_c = [], []
    for d in range(directions):
        for b in range(hx.shape[1]):
            h, c = hx[d, b], None if cx is None else cx[d, b]
            times = [t for t in range(steps) if b < sizes[t]]
            for t in reversed(times) if d else times:
                row = offsets[t] + b
                h, c = step_of(rows[row], h, c, params[d * count : (d + 1) * count], masks[d, row])
                outputs[d][row] = h
            last_h.append(h)
            last_c.append(c)
    output = torch.cat([torch.stack(rows) for rows in outputs], dim=-1)
    shape = hx.shape[:2]
    return (
        output.reshape(*input.shape[:-1], -1),
        torch.stack(last_h).reshape(*shape, -1),
        input.new_empty(0) if cx is None else torch.stack(last_c).reshape(*shape, -1),
    )


def converted(tensors, dtype):
    """The floating point tensors in nested tuples and lists, in another dtype."""
    return torch.utils._pytree.tree_map(
        lambda t: t.to(dtype) if torch.is_tensor(t) and t.is_floating_point() else t, tensors
    )


def exact(arguments, masks):
    return loop(*converted((*arguments, masks), torch.float64))


@needs_kernels
@pytest.mark.parametrize("problem", both(bidirectional=True, lengths=(3, 2)), ids=["lstm", "gru"])
def test_opcheck(problem):
    arguments, masks = layer_arguments(problem), draw_masks(problem)
    torch.library.opcheck(OPS.rnn_layer.default, (*arguments, masks))
    torch.library.opcheck(OPS.rnn_layer.default, (*with_requires_grad(arguments), masks))
    torch.library.opcheck(OPS.rnn_layer_with_reserve.default, (*arguments, masks))
    output, hy, _, reserve = OPS.rnn_layer_with_reserve(*arguments, masks)
    grads = torch.ones_like(output), torch.ones_like(hy), None
    torch.library.opcheck(
        OPS.rnn_layer_backward.default, (*grads, *arguments, output, reserve, (True, False, True, True), masks)
    )


@by_problem
def test_a_layer_computes_what_the_loop_does(problem, capability):
    arguments, masks = layer_arguments(problem), draw_masks(problem)
    assert_near(OPS.rnn_layer(*arguments, masks), exact(arguments, masks), problem.dtype)


@by_problem
def test_gradients_are_the_loops(problem, capability):
    masks = draw_masks(problem)
    actual, expected = with_requires_grad(layer_arguments(problem)), with_requires_grad(layer_arguments(problem))
    results = [r for r in OPS.rnn_layer(*actual, masks) if r.numel()]
    exact_results = [r for r in exact(expected, masks) if r.numel()]
    weights = [r.detach() for r in exact_results]
    assert_near(
        torch.autograd.grad(results, leaves(actual), [w.to(problem.dtype) for w in weights]),
        torch.autograd.grad(exact_results, leaves(expected), weights),
        problem.dtype,
        factor=64,
    )


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_masks_have_gradients(mode):
    """As a learned zoneout would need them."""
    problem = Sequences(mode=mode, dtype=torch.float32)
    arguments = layer_arguments(problem)
    ours, theirs = draw_masks(problem).requires_grad_(), draw_masks(problem).double().requires_grad_()
    assert_near(
        torch.autograd.grad(OPS.rnn_layer(*arguments, ours)[0].sum(), ours),
        torch.autograd.grad(exact(arguments, theirs)[0].sum(), theirs),
        torch.float32,
    )


@pytest.mark.parametrize("problem", both(bidirectional=True, steps=4), ids=["lstm", "gru"])
def test_masks_may_have_any_strides(problem, capability):
    arguments, masks = layer_arguments(problem), draw_masks(problem)
    shape = masks.shape
    for strided in (
        masks[:, :1].expand(shape),
        masks[:, :, :, :1].expand(shape),
        masks.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    ):
        assert_close(OPS.rnn_layer(*arguments, strided), OPS.rnn_layer(*arguments, strided.contiguous()))
        pair = with_requires_grad(arguments), with_requires_grad(arguments)
        grads = [
            gradients(OPS.rnn_layer(*a, m)[:2], a) for a, m in zip(pair, (strided, strided.contiguous()), strict=True)
        ]
        assert_close(*grads)


@pytest.mark.parametrize("lengths", [None, (3, 2)])
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_first_and_second_derivatives(mode, lengths):
    problem = Sequences(
        mode=mode,
        steps=2,
        batch=2,
        input_size=2,
        hidden_size=2,
        bidirectional=True,
        lengths=lengths,
        dtype=torch.float64,
    )
    input, hx, cx, params, batch_sizes = with_requires_grad(layer_arguments(problem))
    masks = draw_masks(problem)

    def function(input, hx, cx, *params):
        return OPS.rnn_layer(input, hx, cx, list(params), batch_sizes, masks)[: 3 if cx is not None else 2]

    assert torch.autograd.gradcheck(function, (input, hx, cx, *params))
    assert torch.autograd.gradgradcheck(function, (input, hx, cx, *params))


@pytest.mark.parametrize("problem", both(bidirectional=True), ids=["lstm", "gru"])
def test_second_derivatives_in_float32(problem, capability):
    def second(function, masks, dtype):
        arguments = with_requires_grad(converted(layer_arguments(problem), dtype))
        first = torch.autograd.grad(
            function(*arguments, masks.to(dtype))[0].sum(), leaves(arguments), create_graph=True
        )
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves(arguments))

    masks = draw_masks(problem)
    expected = second(loop, masks, torch.float64)
    assert_near(second(OPS.rnn_layer, masks, torch.float32), expected, torch.float32, factor=64)


def stack_call(problem, tensors, *, dropout=0.0, train, zoneout, recurrent_dropout):
    input, states, params, batch_sizes = tensors
    options = (params, problem.bias, problem.layers, dropout, train, problem.bidirectional, problem.batch_first)
    return OPS.regularized_rnn(
        input, states, *options, batch_sizes, zoneout=zoneout, recurrent_dropout=recurrent_dropout
    )


def stack_loop(problem, tensors, make_masks, dropout=0.0):
    """All layers. `make_masks` gets the shape of a block (directions, rows, hidden_size), and so draws in our order."""
    input, (hx, *cx), params, batch_sizes = tensors
    rows = input.transpose(0, 1) if problem.batch_first else input
    directions = 1 + problem.bidirectional
    count = len(params) // problem.layers
    hidden, cell = [], []
    for i in range(problem.layers):
        rows = torch.dropout(rows, dropout, i > 0)
        part = slice(i * directions, (i + 1) * directions)
        shape = (directions, rows.shape[:-1].numel(), problem.hidden_size)
        masks = torch.stack(make_masks(shape), dim=2).double()
        layer = rows, hx[part], cx[0][part] if cx else None, params[i * count : (i + 1) * count], batch_sizes
        rows, h, c = exact(layer, masks)
        rows = rows.to(problem.dtype)
        hidden.append(h)
        cell.append(c)
    output = rows.transpose(0, 1) if problem.batch_first else rows
    return output.double(), torch.cat(hidden), torch.cat(cell)


@pytest.mark.parametrize("rates", [(0.3, 0.6, 0.4), (0.0, 0.5, 0.0), (1.0, 0.2, 1.0), (0.0, 0.0, 0.5)], ids=str)
@pytest.mark.parametrize("problem", STACKS.values(), ids=STACKS)
def test_training_draws_the_masks(problem, rates):
    *zoneout, p = rates if problem.mode == "lstm" else (rates[0], rates[2])
    tensors = problem.tensors()
    dtype = torch.promote_types(torch.float32, problem.dtype)

    def bernoulli(shape, rate):
        if rate in (0.0, 1.0):
            return torch.full(shape, rate)
        return torch.bernoulli(torch.empty(shape, dtype=dtype), rate)

    def make_masks(shape):
        kept = [bernoulli(shape, rate) for rate in zoneout]
        return [*kept, bernoulli(shape, 1 - p) / max(1 - p, 1e-9)]

    torch.manual_seed(3)
    actual = stack_call(problem, tensors, dropout=0.5, train=True, zoneout=zoneout, recurrent_dropout=p)
    torch.manual_seed(3)
    expected = stack_loop(problem, tensors, make_masks, dropout=0.5)
    assert_near(actual, expected, problem.dtype, factor=32)


@pytest.mark.parametrize("problem", STACKS.values(), ids=STACKS)
def test_evaluation_takes_the_expectation(problem, capability):
    zoneout = [0.3, 0.6][: 2 if problem.mode == "lstm" else 1]

    def make_masks(shape):
        return [*(torch.full(shape, rate, dtype=torch.float64) for rate in zoneout), torch.ones(shape)]

    tensors = problem.tensors()
    actual = stack_call(problem, tensors, train=False, zoneout=zoneout, recurrent_dropout=0.9)
    assert_near(actual, stack_loop(problem, tensors, make_masks), problem.dtype, factor=32)


@pytest.mark.parametrize("problem", STACKS.values(), ids=STACKS)
def test_without_noise_the_operator_is_stocks(problem):
    tensors = problem.tensors()
    zoneout = [0.0] * (2 if problem.mode == "lstm" else 1)
    actual = stack_call(problem, tensors, train=True, zoneout=zoneout, recurrent_dropout=0.0)
    assert_near(actual[: 1 + len(zoneout)], problem.exact(tensors), problem.dtype, factor=32)


def test_operators_check_their_arguments():
    problem = Sequences()
    arguments, masks = layer_arguments(problem), draw_masks(problem)
    for bad in (masks[:, 1:], masks[:, :, :2], masks.double(), masks[..., 1:]):
        with pytest.raises(RuntimeError, match="masks: expected"):
            OPS.rnn_layer(*arguments, bad)
    tensors = problem.tensors()
    for zoneout, p in (([0.1], 0.0), ([0.1, 1.1], 0.0), ([0.1, 0.1], -0.1)):
        with pytest.raises(RuntimeError, match=r"zoneout[a-z_, ]*: expected"):
            stack_call(problem, tensors, train=True, zoneout=zoneout, recurrent_dropout=p)
    with pytest.raises(RuntimeError, match="params for each"):
        stack_call(problem, (*tensors[:2], tensors[2][:-1], None), train=True, zoneout=[0.1, 0.1], recurrent_dropout=0)
