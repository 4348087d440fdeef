"""Calls of operators by modules, which know the options before."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from fastvision._native import _C


class Unpickled:
    """What a module remembers of itself for speed. Copies and pickles of it are None: they find out anew."""

    def __reduce__(self) -> tuple:
        return type(None), ()


class PreparedCall(Unpickled):
    """An operator as a function of its first arguments, tensors, None or lists of tensors, with its options fixed.

    torch.ops takes 3 to 5 us to convert arguments, which is half of a small layer's time; this takes 1.

    Args:
        operator: of fastvision.
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
        self._prepared = _C.prepare_call(self._operator._schema.name, self._tensors, self._options, otherwise)
        return self._prepared

    def of_module(self, names: tuple[str, ...], attributes: dict[str, Any], otherwise: Callable[..., Any]) -> Callable:
        """The operator as a function of a module and inputs; its last tensors are the module's parameters `names`.

        It reads them at each call, in a tenth of a microsecond. `otherwise` has its arguments, and is called in its
        place once one of the module's attributes is no longer what `attributes` says, where a parameter is not
        registered as one, and for whatever torch.ops treats specially. Not for a compiler's eyes.
        """
        inputs = self._tensors - len(names)
        return _C.prepare_module_call(self._operator._schema.name, inputs, names, self._options, attributes, otherwise)
