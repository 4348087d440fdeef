"""MaxPool2d as torch.nn has it, on `fastvision.ops.max_pool2d`."""

from typing import Any

import torch
from torch import Tensor, nn

from fastvision._calls import OperatorStep, PreparedCall, Unpickled, is_recorded
from fastvision.nn.scripting import NotScriptable

_SIZES = ("kernel_size", "stride", "padding", "dilation")
_SETTINGS = (*_SIZES, "ceil_mode", "return_indices")


class _Prepared(Unpickled):
    """The operator with the options of a pool, as they were."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        options = {name: value for name, value in settings.items() if name != "return_indices" and value is not None}
        operators = torch.ops.fastvision
        operator = operators.max_pool2d_with_indices if settings["return_indices"] else operators.max_pool2d
        self.call = PreparedCall(operator.default, 1, **options)
        self.of_module = self.call.of_module((), settings, MaxPool2d._run)


class MaxPool2d(NotScriptable, nn.MaxPool2d):
    """`torch.nn.MaxPool2d`, faster: its arguments and attributes.

    Shapes, dtypes and results: as of `fastvision.ops.max_pool2d`. Under torch.compile, torch.export and torch.jit.trace
    it is stock's.

    Raises:
        RuntimeError: what torch.nn.MaxPool2d raises.
    """

    _prepared: _Prepared | None = None

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if is_recorded():
            return super().forward(input)
        prepared = self._prepared
        return self._run(input) if prepared is None else prepared.of_module(self, input)

    def step(self) -> OperatorStep | None:
        """The forward for a sequence of steps; None where it is not an operator with one result."""
        prepared = None if self.return_indices else self._prepare()
        return prepared and prepared.call.step(self.forward)

    def _run(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prepared = self._prepare()
        return super().forward(input) if prepared is None else prepared.call(input)

    def _prepare(self) -> _Prepared | None:
        """None where stock's call is to judge the arguments, or they are lists, which change in place."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        if self._prepared is None or settings != self._prepared.settings:  # an attribute was changed
            self._prepared = _Prepared(settings) if _are_constants(settings) else None
        return self._prepared


def _are_constants(settings: dict[str, Any]) -> bool:
    sizes = [settings[name] for name in _SIZES if name != "stride" or settings[name] is not None]
    numbers = [number for size in sizes for number in (size if type(size) is tuple else (size,))]
    return all(type(number) is int for number in numbers) and type(settings["ceil_mode"]) is bool
