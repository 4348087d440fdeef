"""nn.Sequential whose forward runs successive layers as one operator.

A converted Sequential keeps its very children, so parameters, state_dict keys, indexing and hooks are what they
were. Only its class changes, to a subclass whose forward plans runs from the children. At each call the plan is
compared with everything it was made from, so it is never stale.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastvision._calls import Unpickled
from fastvision.convert.converted import Converted, derive, is_observed
from fastvision.convert.direct import direct_calls
from fastvision.convert.runs import Run, find_runs, has_hooks, obstacle
from fastvision.convert.unchanged import unchanged
from fastvision.nn import Linear
from fastvision.nn.scripting import NotScriptable


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


def has_runs_or_linear(sequential: nn.Sequential) -> bool:
    """Whether there is something to fuse, now or in another mode of the model, or a Linear to call directly."""
    steps = find_runs(flatten(sequential)[1], structure_only=True)
    return any(isinstance(step, Run) or type(step) in (nn.Linear, Linear) for step in steps)


class _Plan(Unpickled):
    """The steps of a Sequential's forward, and what they were made from."""

    def __init__(self, sequential: nn.Sequential) -> None:
        containers, layers = flatten(sequential)
        self.steps = direct_calls(step for step in find_runs(layers) if not does_nothing(step))
        self.is_current = unchanged(layers, containers[1:], containers)


def does_nothing(step: nn.Module | Run) -> bool:
    """Whether a call may be left out: it takes 4 to 8 us, and the plan sees when it may no longer."""
    return type(step) in (nn.Identity, nn.Dropout) and obstacle(step) is None


class FusedForward(NotScriptable, Converted):
    """Put before nn.Sequential, or a subclass that keeps its forward, in the bases of a class."""

    _plan: _Plan | None = None

    def forward(self, input):
        if is_observed() or isinstance(input, torch.fx.Proxy):
            return super().forward(input)
        for step in self._steps():
            input = step(input)
        return input

    def _steps(self) -> list[Callable[[Tensor], Tensor]]:
        if torch.compiler.is_compiling():
            # The compiler guards what planning reads, so the graph holds as long as the plan.
            return find_runs(flatten(self)[1])
        plan = self._plan
        if plan is None or not plan.is_current():
            plan = self._plan = _Plan(self)
        return plan.steps


@functools.cache
def fused_class(stock: type[nn.Sequential]) -> type[nn.Sequential]:
    """The subclass of `stock` with FusedForward."""
    return derive(stock, FusedForward, fused_class)
