"""LSTM, GRU and their cells: torch.nn's modules, computed by the operators of `fastvision.ops.rnn`.

Each is a subclass of the stock module of that name: constructor, parameters, initialisation, state_dict, attributes
and errors are inherited or the same, only `forward` calls another operator. Stock's forward keeps a module from being
compiled as one graph where it reads sizes from packed sequences; these do not. What they have besides stock's are the
options zoneout and recurrent_dropout (`fastvision.nn.regularized`), which are off by default, and `weight_dtype`, for
inference from weights in fewer bits (`fastvision.nn.storage`).
"""

from functools import lru_cache
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastvision._calls import PreparedCall, Unpickled
from fastvision._parameters import tensor_of
from fastvision.nn import dynamo
from fastvision.nn.regularized import Regularized
from fastvision.nn.rnn_storage import StoredRnnWeights
from fastvision.ops.rnn import gru_cell, lstm_cell

_lstm = torch.ops.fastvision.lstm.default
_gru = torch.ops.fastvision.gru.default
_OPTIONS = ("has_biases", "num_layers", "dropout", "train", "bidirectional", "batch_first")


@lru_cache(maxsize=256)
def _prepared(operator: torch._ops.OpOverload, *options: Any) -> PreparedCall:
    """An operator of an input, states and weights: torch.ops takes two microseconds longer."""
    return PreparedCall(operator, 3, **dict(zip(_OPTIONS, options, strict=True)))


def _is_recorded(module: Regularized, input: Any) -> bool:
    """Whether torch.fx or torch.jit.trace records this call, for a program that may run without fastvision.

    torch.jit.trace finds nothing in stock's forward that has zoneout or recurrent dropout.
    """
    return isinstance(input, torch.fx.Proxy) or (torch.jit.is_tracing() and not module._is_regularized())


def _record(module: nn.Module, stock: type[nn.Module], input: Any, hx: Any) -> Any:
    """The call as tracers see a stock module: a single node in torch.fx, stock operators in torch.jit.trace."""
    if isinstance(input, torch.fx.Proxy):
        arguments = (input,) if hx is None else (input, hx)
        return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), arguments, {})
    return stock.forward(module, input, hx)


class _Sequences(Regularized, StoredRnnWeights):
    """The forward of LSTM and GRU, put before stock's class in the bases. Its steps and checks are stock's."""

    _fresh: "_FromZeros | None" = None

    def forward(self, input, hx=None):
        if torch.compiler.is_compiling() or hx is not None or self._fresh is None:
            return self._forward(input, hx)
        return self._fresh.call(self, input)

    def _forward(self, input, hx=None):
        if _is_recorded(self, input):
            return _record(self, self._stock, input, hx)
        weights = self._current_weights()
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, weights)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self.mode}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        is_batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if not is_batched:
            input = input.unsqueeze(batch_dim)
        if hx is None:
            self.check_input(input, None)  # states of our own making fit
            self._prepare()
            hx = self._zeros(input, input.size(batch_dim))
        else:
            hx = self._with_batch(hx, is_batched)
            self.check_forward_args(input, hx, None)
        output, hidden = self._run(input, hx, weights, self.batch_first, None)
        return (output, hidden) if is_batched else (output.squeeze(batch_dim), self._without_batch(hidden))

    def _forward_packed(self, packed: PackedSequence, hx: Any, weights: list[Tensor]):
        input, batch_sizes, sorted_indices, unsorted_indices = packed
        if hx is None:
            hx = self._zeros(input, _batch_size(batch_sizes, sorted_indices))
        else:
            hx = self.permute_hidden(hx, sorted_indices)
        self._check_packed(input, hx, batch_sizes)
        output, hidden = self._run(input, hx, weights, False, batch_sizes)
        output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return output, self.permute_hidden(hidden, unsorted_indices)

    def _current_weights(self) -> list[Tensor]:
        """The parameters in the operator's order, as they are now."""
        if torch.compiler.is_compiling():
            # _flat_weights is a cache, which a graph can't update.
            return [tensor_of(self, name) for name in self._flat_weights_names]
        # Asking stock whether its cache still holds takes ten times as long.
        if not all(map(is_, map(self._parameters.get, self._flat_weights_names), self._flat_weights)):
            self._update_flat_weights()
        return self._flat_weights

    def _prepare(self) -> None:
        """Makes the next call from zeros a shorter one, where it is stock's module and no more."""
        is_stock = type(self) in (LSTM, GRU) and self.proj_size == 0 and self._rates is None and self._storage is None
        if not is_stock or torch.compiler.is_compiling():
            return
        if self._fresh is None or self._fresh.attributes != _FromZeros.attributes_of(self):
            self._fresh = _FromZeros(self)

    def _call(self, input, hx, weights, batch_first, batch_sizes):
        if batch_sizes is None and not torch.compiler.is_compiling():
            return _prepared(self._operator, *self._options(), batch_first)(input, hx, weights)
        return self._operator(input, hx, weights, *self._options(), batch_first, batch_sizes)

    def _options(self) -> tuple:
        return self.bias, self.num_layers, self.dropout, self.training, self.bidirectional

    def _zero_state(self, input: Tensor, batch: int, size: int) -> Tensor:
        layers = self.num_layers * (2 if self.bidirectional else 1)
        return input.new_zeros((layers, batch, size))


class _FromZeros(Unpickled):
    """The call of a module on a batch of sequences of one length, with states of zeros: 5 to 10 us less in Python."""

    _NAMES = (
        *("bias", "num_layers", "dropout", "training", "bidirectional", "batch_first"),
        *("input_size", "hidden_size", "proj_size"),
    )

    def __init__(self, module: _Sequences) -> None:
        self.attributes = self.attributes_of(module)
        operator = _prepared(module._operator, *module._options(), module.batch_first)
        layers = module.num_layers * (2 if module.bidirectional else 1)
        self.call = operator.of_recurrent_module(
            tuple(module._flat_weights_names),
            self.attributes,
            ("_rates", "_storage"),
            (module._states, layers, module.input_size, module.hidden_size, 0 if module.batch_first else 1),
            _Sequences._forward,
        )

    @classmethod
    def attributes_of(cls, module: nn.RNNBase) -> dict[str, Any]:
        """What the call depends on besides the parameters."""
        return {name: getattr(module, name) for name in cls._NAMES}


def _batch_size(batch_sizes: Tensor, sorted_indices: Tensor | None) -> int:
    if not torch.compiler.is_compiling():
        return int(batch_sizes[0])
    if sorted_indices is not None:
        return sorted_indices.size(0)
    # A size that is known when the graph runs, rather than a break in the graph.
    with torch._dynamo.patch_dynamo_config(capture_scalar_outputs=True):
        return batch_sizes[0].item()


class LSTM(_Sequences, nn.LSTM):
    """Long short-term memory over sequences: `torch.nn.LSTM`, computed by `fastvision.ops.lstm`.

    Arguments, parameters, initialisation, state_dict, shapes, dtypes and errors are those of `torch.nn.LSTM`; the same
    seed gives the same weights. Input may be a tensor, with or without batch, or a PackedSequence.

    Beyond stock's (by name only, 0 by default, formulas in `fastvision.ops.rnn`):
        zoneout: probability of an element of the state keeping its value in a step; a pair: of h and of c.
        recurrent_dropout: probability of zeroing an element of the candidate g in a step.
        ValueError: they are not in [0, 1].
    """

    _stock = nn.LSTM
    _operator = _lstm
    _states = 2

    def _zeros(self, input: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        c = self._zero_state(input, batch, self.hidden_size)
        return self._zero_state(input, batch, self.proj_size) if self.proj_size > 0 else c, c

    def _with_batch(self, hx: tuple[Tensor, Tensor], is_batched: bool) -> tuple[Tensor, Tensor]:
        expected, kind = (3, "batched 3-D") if is_batched else (2, "unbatched 2-D")
        if hx[0].dim() != expected or hx[1].dim() != expected:
            raise RuntimeError(
                f"For {kind} input, hx and cx should also be {expected}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        return hx if is_batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))

    def _without_batch(self, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return hidden[0].squeeze(1), hidden[1].squeeze(1)

    def _check_packed(self, input: Tensor, hx: tuple[Tensor, Tensor], batch_sizes: Tensor) -> None:
        pass  # stock leaves it to the operator

    def _run(self, input, hx, weights, batch_first, batch_sizes):
        if self._rates and self._is_regularized():
            output, hy, cy = self._regularized_sequences(input, hx, weights, batch_first, batch_sizes)
            return output, (hy, cy)
        if self._storage is not None and (results := self._run_stored(weights, input, hx, batch_first, batch_sizes)):
            return results
        output, hy, cy = self._call(input, hx, weights, batch_first, batch_sizes)
        return output, (hy, cy)


class GRU(_Sequences, nn.GRU):
    """Gated recurrent units over sequences: `torch.nn.GRU`, computed by `fastvision.ops.gru`.

    Arguments, parameters, initialisation, state_dict, shapes, dtypes and errors are those of `torch.nn.GRU`; the same
    seed gives the same weights. Input may be a tensor, with or without batch, or a PackedSequence.

    Beyond stock's (by name only, 0 by default, formulas in `fastvision.ops.rnn`):
        zoneout: probability of an element of h keeping its value in a step.
        recurrent_dropout: probability of zeroing an element of the candidate n in a step.
        ValueError: they are not in [0, 1].
    """

    _stock = nn.GRU
    _operator = _gru

    def _zeros(self, input: Tensor, batch: int) -> Tensor:
        return self._zero_state(input, batch, self.hidden_size)

    def _with_batch(self, hx: Tensor, is_batched: bool) -> Tensor:
        expected, kind = (3, "batched 3-D") if is_batched else (2, "unbatched 2-D")
        if hx.dim() != expected:
            raise RuntimeError(f"For {kind} input, hx should also be {expected}-D but got {hx.dim()}-D tensor")
        return hx if is_batched else hx.unsqueeze(1)

    def _without_batch(self, hidden: Tensor) -> Tensor:
        return hidden.squeeze(1)

    def _check_packed(self, input: Tensor, hx: Tensor, batch_sizes: Tensor) -> None:
        if torch.compiler.is_compiling():
            self.check_input(input, batch_sizes)  # the operator checks hx, when it can read batch_sizes
        else:
            self.check_forward_args(input, hx, batch_sizes)

    def _run(self, input, hx, weights, batch_first, batch_sizes):
        if self._rates and self._is_regularized():
            return self._regularized_sequences(input, hx, weights, batch_first, batch_sizes)[:2]
        if self._storage is not None and (results := self._run_stored(weights, input, [hx], batch_first, batch_sizes)):
            return results[0], results[1][0]
        return self._call(input, hx, weights, batch_first, batch_sizes)


_CELL_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the operators' order
_lstm_step = PreparedCall(torch.ops.fastvision.lstm_cell.default, 7).of_module(_CELL_PARAMETERS)
_gru_step = PreparedCall(torch.ops.fastvision.gru_cell.default, 6).of_module(_CELL_PARAMETERS)


def _cell_parameters(cell: nn.RNNCellBase) -> tuple[Tensor | None, ...]:
    """As they are now."""
    return tuple(tensor_of(cell, name) for name in _CELL_PARAMETERS)


class _Cell(Regularized, StoredRnnWeights):
    """What both cells have besides stock's."""

    def _current_weights(self) -> list[Tensor]:
        return [parameter for parameter in _cell_parameters(self) if parameter is not None]


class LSTMCell(_Cell, nn.LSTMCell):
    """One step of long short-term memory: `torch.nn.LSTMCell`, computed by `fastvision.ops.lstm_cell`.

    Arguments, parameters, initialisation, state_dict, shapes, dtypes and errors are those of `torch.nn.LSTMCell`; the
    same seed gives the same weights. Beyond stock's there are `zoneout` and `recurrent_dropout`, as in LSTM.
    """

    _states = 2

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if _is_recorded(self, input):
            return _record(self, nn.LSTMCell, input, hx)
        dimensions = input.dim()
        if dimensions not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {dimensions}D instead")
        if hx is not None:
            for index, state in enumerate(hx):
                if state.dim() not in (1, 2):
                    raise ValueError(f"LSTMCell: Expected hx[{index}] to be 1D or 2D, got {state.dim()}D instead")
        if dimensions == 1:
            input = input.unsqueeze(0)
            hx = None if hx is None else (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
        if hx is None:
            zeros = input.new_zeros((input.size(0), self.hidden_size))
            hx = (zeros, zeros)
        if self._rates and self._is_regularized():
            h, c = self._regularized_step(input, hx, _cell_parameters(self))
        elif self._storage is not None and (states := self._step_stored(self._current_weights(), input, hx)):
            h, c = states
        elif torch.compiler.is_compiling() or len(hx) != 2:
            h, c = lstm_cell(input, hx, *_cell_parameters(self))
        else:
            h, c = _lstm_step(self, input, hx[0], hx[1])
        return (h.squeeze(0), c.squeeze(0)) if dimensions == 1 else (h, c)


class GRUCell(_Cell, nn.GRUCell):
    """One step of a gated recurrent unit: `torch.nn.GRUCell`, computed by `fastvision.ops.gru_cell`.

    Arguments, parameters, initialisation, state_dict, shapes, dtypes and errors are those of `torch.nn.GRUCell`; the
    same seed gives the same weights. Beyond stock's there are `zoneout` and `recurrent_dropout`, as in GRU.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if _is_recorded(self, input):
            return _record(self, nn.GRUCell, input, hx)
        dimensions = input.dim()
        if dimensions not in (1, 2):
            raise ValueError(f"GRUCell: Expected input to be 1D or 2D, got {dimensions}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if dimensions == 1:
            input = input.unsqueeze(0)
            hx = None if hx is None else hx.unsqueeze(0)
        if hx is None:
            hx = input.new_zeros((input.size(0), self.hidden_size))
        if self._rates and self._is_regularized():
            h, _ = self._regularized_step(input, (hx,), _cell_parameters(self))
        elif self._storage is not None and (states := self._step_stored(self._current_weights(), input, [hx])):
            (h,) = states
        elif torch.compiler.is_compiling():
            h = gru_cell(input, hx, *_cell_parameters(self))
        else:
            h = _gru_step(self, input, hx)
        return h.squeeze(0) if dimensions == 1 else h


dynamo.trace_subclasses(LSTM, GRU)
