"""MaxPool2d and AvgPool2d as torch.nn has them, on `fastvision.ops.max_pool2d` and `avg_pool2d`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastvision._calls import OperatorStep, PreparedCall, Unpickled, is_recorded
from fastvision.nn.scripting import NotScriptable

_operators = torch.ops.fastvision


class _Prepared(Unpickled):
    """The operator with the options of a pool, as they were."""

    def __init__(self, pool: "_Pool", settings: dict[str, Any]) -> None:
        self.settings = settings
        options = {name: value for name, value in settings.items() if name != "return_indices" and value is not None}
        self.call = PreparedCall(pool._operator().default, 1, **options)
        self.of_module = self.call.of_module((), settings, type(pool)._run)


class _Pool(NotScriptable):
    """Put before a pool of torch.nn in the bases of a class."""

    _prepared: _Prepared | None = None
    _SIZES: tuple[str, ...]  # the attributes that hold sizes
    _SETTINGS: tuple[str, ...]  # all that the operator's options are made of

    def _operator(self) -> Callable:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if is_recorded():
            return super().forward(input)
        prepared = self._prepared
        return self._run(input) if prepared is None else prepared.of_module(self, input)

    def step(self) -> OperatorStep | None:
        """The forward for a sequence of steps; None where it is not an operator with one result."""
        prepared = None if getattr(self, "return_indices", False) else self._prepare()
        return prepared and prepared.call.step(self.forward)

    def _run(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prepared = self._prepare()
        return super().forward(input) if prepared is None else prepared.call(input)

    def _prepare(self) -> _Prepared | None:
        """None where stock's call is to judge the arguments, or they are lists, which change in place."""
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        if self._prepared is None or settings != self._prepared.settings:  # an attribute was changed
            self._prepared = _Prepared(self, settings) if self._are_constants(settings) else None
        return self._prepared

    def _are_constants(self, settings: dict[str, Any]) -> bool:
        sizes = [settings[name] for name in self._SIZES if name != "stride" or settings[name] is not None]
        numbers = [number for size in sizes for number in (size if type(size) is tuple else (size,))]
        others = [value for name, value in settings.items() if name not in self._SIZES and value is not None]
        return all(type(number) is int for number in numbers) and all(type(value) in (bool, int) for value in others)


class MaxPool2d(_Pool, nn.MaxPool2d):
    """`torch.nn.MaxPool2d`, faster: its arguments and attributes.

    Shapes, dtypes and results: as of `fastvision.ops.max_pool2d`. Under torch.compile, torch.export and torch.jit.trace
    it is stock's.

    Raises:
        RuntimeError: what torch.nn.MaxPool2d raises.
    """

    _SIZES = ("kernel_size", "stride", "padding", "dilation")
    _SETTINGS = (*_SIZES, "ceil_mode", "return_indices")

    def _operator(self) -> Callable:
        return _operators.max_pool2d_with_indices if self.return_indices else _operators.max_pool2d


class AvgPool2d(_Pool, nn.AvgPool2d):
    """`torch.nn.AvgPool2d`, faster in inference: its arguments and attributes.

    Shapes, dtypes and results: as of `fastvision.ops.avg_pool2d`. Under torch.compile, torch.export and torch.jit.trace
    it is stock's.

    Raises:
        RuntimeError: what torch.nn.AvgPool2d raises.
    """

    _SIZES = ("kernel_size", "stride", "padding")
    _SETTINGS = (*_SIZES, "ceil_mode", "count_include_pad", "divisor_override")

    def _operator(self) -> Callable:
        return _operators.avg_pool2d
