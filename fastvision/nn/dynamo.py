"""Making torch.compile trace modules that it refuses for their base class.

Dynamo breaks the graph at every instance of nn.LSTM and nn.GRU, subclasses too, because stock's forward would be
unrolled, unless torch._dynamo.config.allow_rnn is set, for all modules. Ours call one operator. So Dynamo's function
that wraps modules is told, for these classes only, that they are allowed.
"""

import contextlib
import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

_BUILDER = "torch._dynamo.variables.builder"


def trace_subclasses(*classes: type) -> None:
    """Lets Dynamo trace the instances of these subclasses of nn.LSTM and nn.GRU."""
    # Dynamo takes seconds to import, which programs that do not compile must not pay.
    _after_import(_BUILDER, functools.partial(_allow, classes=classes))


def _allow(builder: ModuleType, classes: tuple[type, ...]) -> None:
    stock = getattr(builder.VariableBuilder, "wrap_module", None)
    if stock is None or not hasattr(builder.config, "allow_rnn"):
        return  # another PyTorch, which either needs no help or breaks the graph as at stock's modules

    @functools.wraps(stock)
    def wrap_module(self, value):
        with builder.config.patch(allow_rnn=True) if isinstance(value, classes) else contextlib.nullcontext():
            return stock(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


def _after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(importlib.abc.MetaPathFinder):
    """Runs an action after the first import of one module."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, fullname, path, target=None):
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)  # so that what follows finds the module itself
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                self._action(module)

            spec.loader.exec_module = exec_module
        return spec
