"""Calls of operators by modules, which know the options before."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastvision._native import _C
from fastvision._parameters import tensor_of


def is_recorded() -> bool:
    """Whether a graph is made. It has stock's layers, for whoever reads it to do with as they like."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Unpickled:
    """What a module remembers of itself for speed. Copies and pickles of it are None: they find out anew."""

    def __reduce__(self) -> tuple:
        return type(None), ()


class PreparedCall(Unpickled):
    """An operator as a function of its first arguments, tensors, None or lists of tensors, with its options fixed.

    torch.ops takes 3 to 5 us to convert arguments, which is half of a small layer's time; this takes 1.

    Args:
        operator: fastvision's, or one of PyTorch's.
        tensors: how many arguments a call passes.
        options: the operator's other arguments, where they differ from its defaults.

    Raises:
        RuntimeError: at the call, what the operator raises.
    """

    def __init__(self, operator: torch._ops.OpOverload, tensors: int, **options: Any) -> None:
        self._operator = operator
        self._tensors = tensors
        self._options = options
        self._prepared: Callable[..., Any] | None = None

    def __call__(self, *tensors: torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, ...] | None) -> Any:
        if torch.compiler.is_compiling():  # a graph has the operator's name
            return self._operator(*tensors, **self._options)
        return (self._prepared or self._prepare())(*tensors)

    def _prepare(self) -> Callable[..., Any]:
        otherwise = functools.partial(self._operator, **self._options)
        self._prepared = _C.prepare_call(self._name(), self._tensors, self._options, otherwise)
        return self._prepared

    def of_module(
        self,
        names: tuple[str, ...],
        attributes: dict[str, Any] | None = None,
        otherwise: Callable[..., Any] | None = None,
    ) -> Callable[..., Any]:
        """The operator as a function of a module and inputs; the last tensors are the module's parameters `names`.

        It reads them at each call, for a tenth of a microsecond, and is not for the eyes of a compiler.

        Args:
            attributes: what the module's attributes must be for the options to hold; none if the options always do.
            otherwise: called in its place, with its arguments, once an attribute is another, where a parameter is not
                registered as one, and for what torch.ops treats specially. The operator itself if none is given.
        """

        def call_operator(module: nn.Module, *inputs: torch.Tensor | None) -> Any:
            return self(*inputs, *(tensor_of(module, name) for name in names))

        return _C.prepare_module_call(
            self._name(), self._tensors, names, self._options, attributes or {}, otherwise or call_operator
        )

    def of_recurrent_module(
        self,
        names: tuple[str, ...],
        attributes: dict[str, Any],
        absent: tuple[str, ...],
        states: tuple[int, ...],
        otherwise: Callable[..., Any],
    ) -> Callable[..., Any]:
        """The operator of an input, states and parameters as a function of a module and an input, with zeros as states.

        Args:
            names: of the parameters.
            attributes, otherwise: as of of_module.
            absent: attributes that the module must not have in its __dict__.
            states: how many there are, layers * directions, input_size, hidden_size, and the input's batch dimension.
        """
        return _C.prepare_recurrent_call(self._name(), names, self._options, attributes, absent, *states, otherwise)

    def step(
        self,
        otherwise: Callable[[torch.Tensor], torch.Tensor],
        *sources: tuple[nn.Module, tuple[str, ...]],
        folds: bool = False,
    ) -> "OperatorStep":
        """The operator on an input and parameters and buffers of modules, as they are at the call.

        Args:
            otherwise: does the same.
            sources: modules, and of each the names of what the operator takes.
            folds: it stands for its layers only without gradients, and on images in four dimensions.
        """
        return OperatorStep(otherwise, (self._name(), self._options, sources, folds))

    def _name(self) -> tuple[str, str]:
        return self._operator._schema.name, self._operator._schema.overload_name


@dataclass(frozen=True)
class OperatorStep:
    """A call of an operator with one input, as Python would do it and as _C.prepare_sequence takes it."""

    call: Callable[[torch.Tensor], torch.Tensor]
    description: tuple

    @property
    def folds(self) -> bool:
        """Whether it stands for its layers only without gradients."""
        return self.description[-1]


def sequence(steps: Sequence[OperatorStep]) -> Callable[[torch.Tensor], torch.Tensor]:
    """One step after the other without Python between them. Not for the eyes of a compiler.

    A step takes half a microsecond instead of two, and other threads run while all of them do. Their own calls are
    for parameters that are not registered as such, and what torch.ops treats specially; with gradients, also for those
    that fold, and what is between them are sequences.
    """
    calls = []
    folding = any(step.folds for step in steps)
    for folds, group in itertools.groupby(steps, lambda step: step.folds):
        group = tuple(group)
        calls += [sequence(group)] if folding and not folds else [step.call for step in group]

    def one_by_one(input: torch.Tensor) -> torch.Tensor:
        for call in calls:
            input = call(input)
        return input

    return _C.prepare_sequence([step.description for step in steps], one_by_one)
