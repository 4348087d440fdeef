"""Finding in a torch.fx graph the chains of layers, called as modules or as functions, that one operator can do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from fastvision.convert.runs import Run, find_runs

# A function is the layer that does the same. In-place ones are no exception, where nobody else sees their argument.


def _relu(input, inplace=False):
    return nn.ReLU()


def _max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    return nn.MaxPool2d(kernel_size, _stride(stride), padding, dilation, return_indices, ceil_mode)


def _avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    return nn.AvgPool2d(kernel_size, _stride(stride), padding, ceil_mode, count_include_pad, divisor_override)


def _dropout(input, p=0.5, training=True, inplace=False):
    return nn.Dropout(p).train(training)


def _stride(stride: Any) -> Any:
    return None if stride is not None and not isinstance(stride, int) and len(stride) == 0 else stride


_FUNCTIONS: dict[Callable, Callable[..., nn.Module]] = {
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
}
_METHODS: dict[str, Callable[..., nn.Module]] = {"relu": _relu, "relu_": _relu}


@dataclass(frozen=True)
class Chain:
    """Nodes of which each is the only user of the one before, and the layers that do the same.

    `layers` starts with a Conv2d. Its first `length` make a run; if there is none, `length` is 1.
    """

    nodes: list[Node]
    layers: list[nn.Module]
    length: int


def find_chains(
    graph: Graph, module_at: Callable[[str], nn.Module], *, structure_only: bool = False
) -> Iterator[Chain]:
    """The chains that start with a call of a Conv2d, in the order they run."""
    for node in graph.nodes:
        if node.op == "call_module" and type(module_at(node.target)) is nn.Conv2d and _is_simple(node):
            yield _follow(node, module_at, structure_only)


def _follow(node: Node, module_at: Callable[[str], nn.Module], structure_only: bool) -> Chain:
    nodes, layers = [node], [module_at(node.target)]
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        layer = equivalent_layer(user, module_at) if reads_once(user, nodes[-1]) else None
        if layer is None:
            break
        nodes.append(user)
        layers.append(layer)
    first = find_runs(layers, structure_only=structure_only)[0]
    return Chain(nodes, layers, len(first.layers) if isinstance(first, Run) else 1)


def reads_once(node: Node, value: Node) -> bool:
    """Whether `value` is the first argument of a node, and no other is computed."""
    return node.args[:1] == (value,) and node.all_input_nodes == [value] and list(_nodes(node)) == [value]


def _nodes(node: Node) -> list[Node]:
    found = []
    torch.fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _is_simple(node: Node) -> bool:
    return len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], Node)


def equivalent_layer(node: Node, module_at: Callable[[str], nn.Module]) -> nn.Module | None:
    """The layer that a node applies to its first argument; None if it is no layer."""
    if node.op == "call_module":
        return module_at(node.target) if _is_simple(node) else None
    functions = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    make = functions.get(node.target)
    return None if make is None else make(*node.args, **node.kwargs)


def fuse(graph: Graph, chain: Chain, target: Callable, arguments: tuple, keywords: dict[str, Any]) -> None:
    """Puts one call of a function in the place of the run that a chain begins with.

    The call goes where the convolution was: until the run's last layer, the graph may change the input in place.
    """
    nodes = chain.nodes[: chain.length]
    with graph.inserting_after(nodes[0]):
        fused = graph.call_function(target, arguments, keywords)
    nodes[-1].replace_all_uses_with(fused)
    for node in reversed(nodes):
        graph.erase_node(node)
