"""Modules whose class was changed to a subclass of it that calls fused operators.

They keep their children, so parameters, state_dict keys, indexing and hooks are what they were.
"""

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook


class Converted:
    """Put before a stock class in the bases of a class that `derive` makes."""

    def __reduce_ex__(self, protocol: int):
        create, arguments, *rest = super().__reduce_ex__(protocol)
        if arguments and arguments[0] is type(self):
            # Classes made at run time can't be pickled by name.
            return _create, (type(self)._derived_by, stock_class(self), create, *arguments[1:]), *rest
        return create, arguments, *rest


def derive(
    stock: type[nn.Module], mixin: type[Converted], again: Callable[[type[nn.Module]], type], **body: Any
) -> type[nn.Module]:
    """The subclass of `stock` with `mixin`, and `body` in it. `again(stock)`, a function of a module, repeats this."""
    body = {"__module__": mixin.__module__, "_stock_class": stock, "_derived_by": staticmethod(again), **body}
    return types.new_class(f"Fused{stock.__name__}", (mixin, stock), exec_body=lambda names: names.update(body))


def stock_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that `module` had before its conversion; None if its class was not derived."""
    return type(module).__dict__.get("_stock_class")


def stock_type(module: nn.Module) -> type[nn.Module]:
    """The class of `module`, or the one it had before its conversion."""
    return stock_class(module) or type(module)


def is_observed() -> bool:
    """Whether somebody expects to see every layer: global hooks (FLOP counters) or torch.jit.trace."""
    return _has_any_global_hook() or torch.jit.is_tracing()


def _create(derive: Callable, stock: type[nn.Module], create: Callable, *arguments: Any) -> nn.Module:
    return create(derive(stock), *arguments)
