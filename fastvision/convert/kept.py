"""Functions of torch in a traced forward whose results may lie in memory kept from earlier calls."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from fastvision._calls import PreparedCall

_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_ADDITIONS = {("call_function", operator.add), ("call_function", torch.add), ("call_method", "add")}
_PRODUCTS = {("call_function", operator.mul), ("call_function", torch.mul), ("call_method", "mul")}


def _of_two(operator_of_tensors: torch._ops.OpOverload, otherwise: Callable[[Any, Any], Any]) -> Callable:
    call = PreparedCall(operator_of_tensors, 2)

    def function(first: Any, second: Any) -> Any:
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return call(first, second)
        return otherwise(first, second)  # sizes, for example

    return function


_add = _of_two(torch.ops.fastvision.add.default, operator.add)
_mul = _of_two(torch.ops.fastvision.mul.default, operator.mul)


def is_fresh_sum(node: Node) -> bool:
    """Whether a value is the sum of two, and for its only user to change."""
    return _kept_function(node) is _add and len(node.users) == 1


def keep_memory(graph: Graph) -> None:
    """Puts functions that keep memory in the place of those that take fresh memory at each call."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _CONCATENATIONS and node.kwargs.keys() <= {"dim"}:
            node.target = torch.ops.fastvision.cat.default
        elif (function := _kept_function(node)) is not None:
            with graph.inserting_before(node):
                kept = graph.call_function(function, node.args)
            kept.meta = dict(node.meta)
            node.replace_all_uses_with(kept)
            graph.erase_node(node)


def _kept_function(node: Node) -> Callable | None:
    if node.kwargs or len(node.args) != 2 or not all(isinstance(argument, Node) for argument in node.args):
        return None
    kind = (node.op, node.target)
    return _add if kind in _ADDITIONS else _mul if kind in _PRODUCTS else None
