"""Finding in a torch.fx graph the chains of layers, called as modules or as functions, that one operator can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, Node

from fastvision.convert.runs import CONVOLUTIONS, Run, find_runs
from fastvision.nn import AvgPool2d, MaxPool2d

# A function is the layer that does the same. In-place ones are no exception, where nobody else sees their argument.


def _relu(input, inplace=False):
    return nn.ReLU()


def _relu6(input, inplace=False):
    return nn.ReLU6()


def _hardtanh(input, min_val=-1.0, max_val=1.0, inplace=False):
    return nn.ReLU6() if (min_val, max_val) == (0, 6) else nn.Hardtanh(min_val, max_val)


def _silu(input, inplace=False):
    return nn.SiLU()


def _hardswish(input, inplace=False):
    return nn.Hardswish()


def _max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    return MaxPool2d(*_sizes(kernel_size, _stride(stride), padding, dilation), return_indices, ceil_mode)


def _avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    sizes = _sizes(kernel_size, _stride(stride), padding)
    return AvgPool2d(*sizes, ceil_mode, count_include_pad, divisor_override)


def _dropout(input, p=0.5, training=True, inplace=False):
    return nn.Dropout(p).train(training)


def _flatten(input, start_dim=0, end_dim=-1):
    return nn.Flatten(start_dim, end_dim)


def _sizes(*sizes: Any) -> list[Any]:
    return [tuple(size) if isinstance(size, list) else size for size in sizes]  # lists could change


def _stride(stride: Any) -> Any:
    return None if stride is not None and not isinstance(stride, int) and len(stride) == 0 else stride


_FUNCTIONS: dict[Callable, Callable[..., nn.Module]] = {
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.silu: _silu,
    F.hardswish: _hardswish,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    torch.flatten: _flatten,
}
_METHODS: dict[str, Callable[..., nn.Module]] = {"relu": _relu, "relu_": _relu, "flatten": _flatten}


def function_layer(node: Node) -> nn.Module | None:
    """The layer that a call of a function or method is, if nothing but its first argument is computed."""
    functions = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    make = functions.get(node.target)
    return make(*node.args, **node.kwargs) if make is not None and nodes_in(node) == list(node.args[:1]) else None


def module_layer(module_at: Callable[[str], nn.Module], node: Node) -> nn.Module | None:
    """The layer that a node is, in a graph that calls modules by their paths."""
    if node.op != "call_module":
        return function_layer(node)
    return module_at(node.target) if len(node.args) == len(nodes_in(node)) == 1 else None


def nodes_in(node: Node) -> list[Node]:
    """The computed arguments of a node, repeated where one is given twice."""
    found = []
    torch.fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def example_of(value: Any) -> Tensor | None:
    """The fake tensor that stands for a node's value in a graph that Dynamo captured."""
    example = value.meta.get("example_value") if isinstance(value, Node) else None
    return example if isinstance(example, Tensor) else None


@dataclass(frozen=True)
class Chain:
    """Nodes of which each is the only user of the one before, and the layers that do the same.

    `layers` starts with a Conv2d. Its first `length` make a run; if there is none, `length` is 1.
    """

    nodes: list[Node]
    layers: list[nn.Module]
    length: int

    def run(self) -> Run:
        """What its first `length` layers are as one operator."""
        return Run(self.layers[: self.length])


def find_chains(
    graph: Graph, layer_of: Callable[[Node], nn.Module | None], *, structure_only: bool = False
) -> list[Chain]:
    """The chains that start with a Conv2d, in the order they run.

    `layer_of(node)` is the layer that a node applies to its first argument, which is given to it only once; None if
    the node is none.
    """
    layers = {node: layer_of(node) for node in graph.nodes}
    return [_follow(node, layers, structure_only) for node, layer in layers.items() if type(layer) in CONVOLUTIONS]


def _follow(node: Node, layers: dict[Node, nn.Module | None], structure_only: bool) -> Chain:
    nodes = [node]
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        if layers[user] is None or user.args[0] is not nodes[-1]:
            break
        nodes.append(user)
    chain = [layers[node] for node in nodes]
    first = find_runs(chain, structure_only=structure_only)[0]
    return Chain(nodes, chain, len(first.layers) if isinstance(first, Run) else 1)


def fuse(graph: Graph, chain: Chain, target: Callable, arguments: tuple) -> Node:
    """Puts one call of a function in the place of the run that a chain begins with; its node.

    The call goes where the convolution was: until the run's last layer, the graph may change the input in place.
    """
    nodes = chain.nodes[: chain.length]
    with graph.inserting_after(nodes[0]):
        fused = graph.call_function(target, arguments)
    fused.meta = dict(nodes[-1].meta)
    nodes[-1].replace_all_uses_with(fused)
    for node in reversed(nodes):
        graph.erase_node(node)
    return fused
