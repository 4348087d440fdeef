"""The options that our recurrent modules have beyond stock's: zoneout and recurrent dropout."""

import numbers
from typing import Any

import torch
from torch import Tensor

from fastvision.nn.scripting import NotScriptable

_regularized_rnn = torch.ops.fastvision.regularized_rnn.default


def _checked_rate(name: str, value: Any, meaning: str) -> float:
    if not isinstance(value, numbers.Number) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(
            f"{name} should be a number in range [0, 1] representing the probability of {meaning}, got {value!r}"
        )
    return float(value)


class Regularized(NotScriptable):
    """Put before stock's class in the bases. Formulas are in `fastvision.ops.rnn`.

    Attributes:
        zoneout: probability of an element of a state keeping its value in a step; for an LSTM also a pair, of the
            hidden state's and the cell's elements.
        recurrent_dropout: probability of zeroing an element of the candidate in a step.
    """

    _states = 1  # h
    # The zoneout of each state, and the recurrent dropout; None where all are 0, so that one look is enough to know.
    # Not in the instances then: those converted from stock's, and pickles of older versions, have none.
    _rates: tuple[tuple[float, ...], float] | None = None

    def __init__(
        self, *args: Any, zoneout: float | tuple[float, float] = 0.0, recurrent_dropout: float = 0.0, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.zoneout = zoneout
        self.recurrent_dropout = recurrent_dropout

    @property
    def zoneout(self) -> float | tuple[float, float]:
        rates = self._rates[0] if self._rates else (0.0,)
        return rates[0] if len(set(rates)) == 1 else rates

    @zoneout.setter
    def zoneout(self, value: float | tuple[float, float]) -> None:
        values = (value,) * self._states
        if self._states == 2 and isinstance(value, tuple | list):
            if len(value) != 2:
                raise ValueError(f"zoneout should be a number or two, of h and c, got {value!r}")
            values = tuple(value)
        zoneout = tuple(_checked_rate("zoneout", v, "an element of a state keeping its value") for v in values)
        self._set_rates(zoneout, self.recurrent_dropout)

    @property
    def recurrent_dropout(self) -> float:
        return self._rates[1] if self._rates else 0.0

    @recurrent_dropout.setter
    def recurrent_dropout(self, value: float) -> None:
        value = _checked_rate("recurrent_dropout", value, "an element of the candidate being zeroed")
        self._set_rates(self._rates[0] if self._rates else (0.0,) * self._states, value)

    def _set_rates(self, zoneout: tuple[float, ...], recurrent_dropout: float) -> None:
        self.__dict__.pop("_rates", None)
        if any(zoneout) or recurrent_dropout:
            self._rates = (zoneout, recurrent_dropout)

    def _is_regularized(self) -> bool:
        """Whether the rates have an effect in the mode that the module is in."""
        return self._rates is not None and (self.training or any(self._rates[0]))

    def _regularized_sequences(
        self, input: Tensor, hx: Any, weights: list[Tensor], batch_first: bool, batch_sizes: Any
    ):
        zoneout, recurrent_dropout = self._rates
        states = [hx] if self._states == 1 else hx
        return _regularized_rnn(
            input,
            states,
            weights,
            *self._options(),
            batch_first,
            batch_sizes,
            zoneout=zoneout,
            recurrent_dropout=recurrent_dropout,
        )

    def _regularized_step(self, input: Tensor, states: tuple[Tensor, ...], parameters: tuple[Tensor | None, ...]):
        zoneout, recurrent_dropout = self._rates
        output, _, cy = _regularized_rnn(
            input.unsqueeze(0),
            [state.unsqueeze(0) for state in states],
            [parameter for parameter in parameters if parameter is not None],
            self.bias,
            1,
            0.0,
            self.training,
            False,
            False,
            zoneout=zoneout,
            recurrent_dropout=recurrent_dropout,
        )
        return output.squeeze(0), cy.squeeze(0)

    def extra_repr(self) -> str:
        options = [super().extra_repr()]
        options += [f"{name}={value}" for name in ("zoneout", "recurrent_dropout") if (value := getattr(self, name))]
        return ", ".join(options)
