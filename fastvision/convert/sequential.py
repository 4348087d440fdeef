"""nn.Sequential whose forward runs successive layers as one operator.

A converted Sequential keeps its very children, so parameters, state_dict keys, indexing and hooks are what they
were. Only its class changes, to a subclass whose forward plans runs from the children. At each call the plan is
compared with everything it was made from, so it is never stale.
"""

import functools
import types
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from fastvision.convert.runs import Run, find_runs, has_hooks

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What a plan depends on beside the classes of the layers. Parameters, buffers and eps are read at each call.
_OPTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: ("training",),
    nn.ReLU: (),
    nn.Identity: (),
    nn.Dropout: ("training",),
    nn.Dropout2d: ("training",),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}
_Reader = Callable[[dict[str, Any]], tuple]
_readers: dict[type[nn.Module], _Reader] = {kind: itemgetter(*_HOOKS, *names) for kind, names in _OPTIONS.items()}
_read_hooks: _Reader = itemgetter(*_HOOKS)


def runs_its_children(module: nn.Module | None) -> bool:
    """Whether the forward of this module is nn.Sequential's: one child after the other."""
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward in (nn.Sequential.forward, FusedForward.forward)
        and type(module).__iter__ is nn.Sequential.__iter__
        and "forward" not in module.__dict__
    )


def flatten(sequential: nn.Sequential) -> tuple[list[nn.Sequential], list[nn.Module]]:
    """The Sequentials inside `sequential`, itself first, and the layers in the order they run."""
    containers, layers = [sequential], []
    for child in sequential._modules.values():
        if runs_its_children(child) and not has_hooks(child):
            inner_containers, inner_layers = flatten(child)
            containers += inner_containers
            layers += inner_layers
        else:
            layers.append(child)
    return containers, layers


def has_runs(sequential: nn.Sequential) -> bool:
    """Whether there is something to fuse, now or in another mode of the model."""
    steps = find_runs(flatten(sequential)[1], structure_only=True)
    return any(isinstance(step, Run) for step in steps)


class _Plan:
    """The steps of a Sequential's forward, and what they were made from."""

    def __init__(self, sequential: nn.Sequential) -> None:
        self._containers, layers = flatten(sequential)
        self.steps = find_runs(layers)
        self._modules = self._containers + layers
        self._readers = [(m, _read_hooks) for m in self._containers[1:]]
        self._readers += [(m, _readers[type(m)]) for m in layers if type(m) in _readers]

        self._children = self._read_children()
        self._types = list(map(type, self._modules))
        # Hooks are kept in dictionaries that change in place: compare with a copy.
        self._options = [
            tuple(dict(value) if isinstance(value, dict) else value for value in options)
            for options in self._read_options()
        ]
        self._own_forwards = self._read_own_forwards()

    def is_current(self) -> bool:
        """Whether planning now would give the same. List operations, since every call pays for them."""
        return (
            self._read_children() == self._children
            and list(map(type, self._modules)) == self._types
            and self._read_options() == self._options
            and self._read_own_forwards() == self._own_forwards
        )

    def _read_children(self) -> list[list[nn.Module]]:
        return [list(container._modules.values()) for container in self._containers]

    def _read_options(self) -> list[tuple]:
        return [read(module.__dict__) for module, read in self._readers]

    def _read_own_forwards(self) -> list[bool]:
        return ["forward" in module.__dict__ for module, _ in self._readers]

    def __reduce__(self) -> tuple:
        # A copy of a model plans anew: copies and pickles of a plan are None.
        return type(None), ()


class FusedForward:
    """Put before nn.Sequential, or a subclass that keeps its forward, in the bases of a class."""

    _plan: _Plan | None = None

    def forward(self, input):
        if _is_observed(input):
            return super().forward(input)
        for step in self._steps():
            input = step(input)
        return input

    def _steps(self) -> list[nn.Module | Run]:
        if torch.compiler.is_compiling():
            # The compiler guards what planning reads, so the graph holds as long as the plan.
            return find_runs(flatten(self)[1])
        plan = self._plan
        if plan is None or not plan.is_current():
            plan = self._plan = _Plan(self)
        return plan.steps

    def __reduce_ex__(self, protocol: int):
        create, arguments, *rest = super().__reduce_ex__(protocol)
        if arguments and arguments[0] is type(self):
            # Classes made at run time can't be pickled by name.
            return _create, (stock_class(self), create, *arguments[1:]), *rest
        return create, arguments, *rest


def _is_observed(input: Any) -> bool:
    """Whether somebody expects to see every layer: global hooks (FLOP counters), torch.fx or torch.jit.trace."""
    return _has_any_global_hook() or isinstance(input, torch.fx.Proxy) or torch.jit.is_tracing()


@functools.cache
def fused_class(stock: type[nn.Sequential]) -> type[nn.Sequential]:
    """The subclass of `stock` with FusedForward."""
    body = {"__module__": __name__, "stock_class": stock}
    return types.new_class(f"Fused{stock.__name__}", (FusedForward, stock), exec_body=lambda names: names.update(body))


def stock_class(module: nn.Module) -> type[nn.Sequential] | None:
    """The class that `module` had before its conversion; None if it was not converted."""
    return type(module).__dict__.get("stock_class")


def _create(stock: type[nn.Sequential], create: Callable, *arguments: Any) -> nn.Sequential:
    return create(fused_class(stock), *arguments)
