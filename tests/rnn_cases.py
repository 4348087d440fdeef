"""Sample problems of the rnn operators, their tensors, and stock PyTorch's answer to them."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fastvision.ops import gru, lstm

LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")
FUNCTIONS = {"lstm": lstm, "gru": gru}
STOCK = {"lstm": torch.lstm, "gru": torch.gru}


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values (of 'expanded': the first ones, for all) in other strides. Gaps in memory hold NaN."""
    match layout:
        case "contiguous":
            return tensor.contiguous()
        case "transposed":
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        case "expanded":
            return tensor[:1].expand_as(tensor)
    surroundings = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 3), torch.nan, dtype=tensor.dtype)
    return surroundings[..., 3::2].copy_(tensor)


@dataclass(frozen=True)
class Sequences:
    """One call of lstm or gru without its numbers, which `arguments` draws."""

    mode: str = "lstm"
    steps: int = 5
    batch: int = 3
    input_size: int = 4
    hidden_size: int = 6
    layers: int = 1
    bias: bool = True
    bidirectional: bool = False
    batch_first: bool = False
    projection: int = 0
    lengths: tuple[int, ...] | None = None  # of packed sequences, the longest first
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    weight_layout: str = "contiguous"

    def tensors(self, seed: int = 0) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor | None]:
        """Input, states, parameters and batch_sizes."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator) * scale).to(self.dtype)

        directions = 1 + self.bidirectional
        gates = (4 if self.mode == "lstm" else 3) * self.hidden_size
        width = self.projection or self.hidden_size
        batch, batch_sizes = self.batch, None
        if self.lengths is not None:
            batch = len(self.lengths)
            batch_sizes = torch.tensor([sum(n > t for n in self.lengths) for t in range(self.lengths[0])])
            input = draw(sum(self.lengths), self.input_size)
        else:
            leading = (batch, self.steps) if self.batch_first else (self.steps, batch)
            input = draw(*leading, self.input_size)
        states = [draw(self.layers * directions, batch, width)]
        if self.mode == "lstm":
            states.append(draw(self.layers * directions, batch, self.hidden_size))
        params = []
        for layer in range(self.layers):
            inputs = self.input_size if layer == 0 else width * directions
            for _ in range(directions):
                params += [
                    lay_out(draw(gates, inputs, scale=inputs**-0.5), self.weight_layout),
                    lay_out(draw(gates, width, scale=width**-0.5), self.weight_layout),
                ]
                params += [draw(gates), draw(gates)] if self.bias else []
                params += [draw(width, self.hidden_size, scale=0.5)] if self.projection else []
        return lay_out(input, self.layout), states, params, batch_sizes

    def call(self, function: Any, input: Tensor, states: list, params: list, batch_sizes: Tensor | None) -> tuple:
        """The call of a function with the signatures of torch.lstm or torch.gru."""
        hx = tuple(states) if self.mode == "lstm" else states[0]
        options = (params, self.bias, self.layers, 0.0, False, self.bidirectional)
        if batch_sizes is None:
            return function(input, hx, *options, self.batch_first)
        return function(input, batch_sizes, hx, *options)

    def run(self, tensors: tuple) -> tuple:
        """What fastvision computes."""
        return self.call(FUNCTIONS[self.mode], *tensors)

    def stock(self, tensors: tuple) -> tuple:
        """What stock PyTorch computes."""
        return self.call(STOCK[self.mode], *tensors)

    def exact(self, tensors: tuple) -> tuple:
        """Stock's answer in float64 from the tensors as they are."""
        input, states, params, batch_sizes = tensors
        return self.stock((input.double(), [s.double() for s in states], [p.double() for p in params], batch_sizes))


def _both(**options: Any) -> dict[str, Sequences]:
    name = options.pop("name")
    return {f"{mode}_{name}": Sequences(mode=mode, **options) for mode in ("lstm", "gru")}


SAMPLES = {
    **_both(name="plain"),
    **_both(name="wide", steps=7, batch=9, input_size=33, hidden_size=70),
    **_both(name="many_short", steps=3, batch=9, hidden_size=21, bidirectional=True),
    **_both(name="many_units", steps=3, batch=2, hidden_size=300),
    **_both(name="one_row", batch=1, hidden_size=37),
    **_both(name="one_long_row", batch=1, steps=70, hidden_size=21),
    **_both(name="two_layers", layers=2, bidirectional=True),
    **_both(name="no_bias", bias=False),
    **_both(name="batch_first", batch_first=True, bidirectional=True),
    **_both(name="packed", lengths=(5, 3, 3, 1)),
    **_both(name="packed_both_ways", lengths=(6, 4, 1), layers=2, bidirectional=True),
    **_both(name="strided", layout="sliced", weight_layout="transposed"),
    **_both(name="bfloat16", dtype=torch.bfloat16),
    **_both(name="float16", dtype=torch.float16),
    **_both(name="float64", dtype=torch.float64),
    "lstm_projected": Sequences(projection=4, layers=2),
}


@st.composite
def sequences(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> Sequences:
    """Problems that stock PyTorch accepts, of every kind that the operators know."""

    def choose(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    mode = choose("lstm", "gru")
    packed = choose(False, False, True)
    lengths = tuple(sorted(draw(st.lists(st.integers(1, 9), min_size=1, max_size=9)), reverse=True))
    return Sequences(
        mode=mode,
        steps=draw(st.integers(1, 9)),
        batch=choose(1, 2, 3, 8, 17, 33),
        input_size=choose(1, 3, 8, 16, 31, 40),
        hidden_size=choose(1, 2, 7, 16, 17, 32, 50),
        layers=choose(1, 1, 2, 3),
        bias=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        batch_first=not packed and draw(st.booleans()),
        lengths=lengths if packed else None,
        dtype=choose(*dtypes),
        layout=choose("contiguous", *LAYOUTS),
        weight_layout=choose("contiguous", "contiguous", *LAYOUTS),
    )


@dataclass(frozen=True)
class Cell:
    """One call of lstm_cell or gru_cell without its numbers."""

    mode: str = "lstm"
    batch: int = 3
    input_size: int = 5
    hidden_size: int = 7
    bias: bool = True
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"

    def tensors(self, seed: int = 0) -> tuple[Tensor | None, ...]:
        """The operator's arguments: input, the states, w_ih, w_hh and the biases."""
        generator = torch.Generator().manual_seed(seed)
        gates = (4 if self.mode == "lstm" else 3) * self.hidden_size

        def draw(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
            return lay_out(values.to(self.dtype), self.layout)

        states = [draw(self.batch, self.hidden_size) for _ in range(2 if self.mode == "lstm" else 1)]
        biases = [draw(gates), draw(gates)] if self.bias else [None, None]
        weights = draw(gates, self.input_size), draw(gates, self.hidden_size)
        return (draw(self.batch, self.input_size), *states, *weights, *biases)

    def call(self, function: Any, arguments: tuple) -> tuple[Tensor, ...]:
        """The states that a function with the signature of torch.lstm_cell or torch.gru_cell returns."""
        if self.mode == "lstm":
            input, h, c, *rest = arguments
            return function(input, (h, c), *rest)
        return (function(*arguments),)


CELLS = {
    f"{mode}_{name}": Cell(mode=mode, **options)
    for mode in ("lstm", "gru")
    for name, options in {
        "plain": {},
        "wide": {"batch": 17, "input_size": 40, "hidden_size": 70},
        "one_row": {"batch": 1},
        "no_bias": {"bias": False},
        "strided": {"layout": "sliced"},
        "bfloat16": {"dtype": torch.bfloat16},
        "float16": {"dtype": torch.float16},
        "float64": {"dtype": torch.float64},
    }.items()
}


def with_requires_grad(tensors: Any) -> Any:
    """Leaves that share memory with the floating point tensors in nested tuples and lists."""
    if isinstance(tensors, Tensor):
        return tensors.detach().requires_grad_() if tensors.is_floating_point() else tensors
    return type(tensors)(map(with_requires_grad, tensors)) if isinstance(tensors, tuple | list) else tensors


def leaves(tensors: Any) -> list[Tensor]:
    """The floating point tensors in nested tuples and lists."""
    return [t for t in torch.utils._pytree.tree_leaves(tensors) if isinstance(t, Tensor) and t.is_floating_point()]


def gradients(results: tuple[Tensor, ...], inputs: Any) -> list[Tensor]:
    """The gradients of a weighted sum of all results."""
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    return list(torch.autograd.grad(results, leaves(inputs), weights))


def layer_arguments(problem: Sequences) -> tuple:
    """The arguments of rnn_layer for a problem of one layer."""
    input, states, params, batch_sizes = problem.tensors()
    return input, states[0], states[1] if problem.mode == "lstm" else None, params, batch_sizes


def has_kernel(problem: Sequences) -> bool:
    """Whether the operators have kernels for a layer that is trained; with none they run the reference."""
    try:
        torch.ops.fastvision.rnn_layer_with_reserve(*layer_arguments(problem))
    except RuntimeError:
        return False
    return True


def assert_near(actual: Any, expected: Any, dtype: torch.dtype, factor: float = 16) -> None:
    """Results agree with float64's to `factor` units of their dtype, of the largest value."""
    tolerance = factor * torch.finfo(dtype).eps
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        largest = e.abs().max().item() if e.numel() else 0.0
        torch.testing.assert_close(a.double(), e.double(), rtol=tolerance, atol=tolerance * max(1.0, largest))
