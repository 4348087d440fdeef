"""Modules whose own forward calls convolutions or samples latents, and what one operator can do with that.

A converted one keeps its class's forward for all that tracing does not cover: each call looks for a program that was
made for such arguments and for the module as it is, and runs the stock forward where there can be none.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from fastvision._calls import OperatorStep, Unpickled
from fastvision.convert.chains import Chain, find_chains, function_layer, fuse, module_layer
from fastvision.convert.converted import Converted, derive, is_observed, stock_type
from fastvision.convert.direct import direct, is_direct, joined, relu_in_place, with_relu
from fastvision.convert.kept import is_fresh_sum, keep_memory
from fastvision.convert.latent_calls import eager_groups, function_of, replace_eager
from fastvision.convert.runs import CONVOLUTIONS
from fastvision.convert.tracing import (
    Signature,
    Trace,
    UntraceableError,
    signature_of,
    taking_lists,
    usual_signature,
)
from fastvision.convert.unchanged import unchanged
from fastvision.nn import AvgPool2d, MaxPool2d
from fastvision.nn.conv import both_axes

# How many programs a module keeps.
_PROGRAMS = 4
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_candidate(module: nn.Module) -> bool:
    """Whether a forward of its own may call convolutions, or functions on latents."""
    if "forward" in module.__dict__ or isinstance(module, _LISTS):
        return False
    return calls_convolutions(module) or not stock_type(module).__module__.startswith(("torch.", "fastvision.nn"))


def calls_convolutions(module: nn.Module) -> bool:
    """Whether there are any for its forward to call."""
    return bool(module._modules) and any(type(child) in CONVOLUTIONS for child in module.modules())


def trace(module: nn.Module, training: bool | None = None) -> Trace:
    """A trace of the stock forward of a module, converted or not, with tensors for its arguments.

    Raises:
        UntraceableError: it can't be traced.
    """
    stock = stock_type(module)
    return Trace(
        module, stock.forward, usual_signature(stock.forward), module.training if training is None else training
    )


def chains_of(found: Trace, *, structure_only: bool = False) -> list[Chain]:
    """The chains of layers in a trace that start with a Conv2d."""
    return find_chains(found.graph, functools.partial(module_layer, found.module), structure_only=structure_only)


def lone_pools(found: Trace, chains: list[Chain]) -> list[Node]:
    """The calls of F.max_pool2d and F.avg_pool2d in a trace that no chain's run does."""
    fused = {node for chain in chains if chain.length > 1 for node in chain.nodes[: chain.length]}
    return [node for node in found.graph.nodes if node not in fused and _is_pool(node)]


def _is_pool(node: Node) -> bool:
    layer = function_layer(node)
    return type(layer) is AvgPool2d or (type(layer) is MaxPool2d and both_axes(layer.dilation) == (1, 1))


def has_gains(module: nn.Module, rng: str) -> bool:
    """Whether there is something to replace, now or in another mode of the module."""
    if not is_candidate(module):
        return False
    for training in (True, False):
        try:
            found = trace(module, training)
        except UntraceableError:
            continue
        chains = chains_of(found, structure_only=True)
        if any(chain.length > 1 for chain in chains) or lone_pools(found, chains) or eager_groups(found.graph, rng):
            return True
    return False


class _Program:
    """A forward in which runs are one call each; none where the stock forward is all there is."""

    run: Callable | None = None

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self._module = module
        self._signature = signature
        self._stock = stock_type(module)
        self._training = module.training
        try:
            self._trace = Trace(module, self._stock.forward, signature, module.training)
        except UntraceableError:
            self._trace = None
            return
        graph = self._trace.graph
        chains = chains_of(self._trace)
        runs, pools = [chain for chain in chains if chain.length > 1], lone_pools(self._trace, chains)
        calls = {}
        for chain in runs:
            run = chain.run()
            calls[fuse(graph, chain, _function(run), chain.nodes[0].args)] = direct(run)
        layers = [layer for chain in chains for layer in chain.layers] + self._call_directly(calls)
        self._layers_unchanged = unchanged(dict.fromkeys(layers))
        _join(graph, calls)
        latents = eager_groups(graph, module._rng)
        replace_eager(graph, latents)
        if runs or pools or latents:
            keep_memory(graph)
            self.run = taking_lists(function_of(graph, f"forward of {type(module).__name__}"), signature)

    def _call_directly(self, calls: dict[Node, Callable]) -> list[nn.Module]:
        """The layers whose calls are to be those that are added to `calls`."""
        graph, replaced = self._trace.graph, []
        layers = {node: module_layer(self._trace.module, node) for node in graph.nodes}
        for node in graph.nodes:
            layer, follower = layers[node], next(iter(node.users)) if len(node.users) == 1 else None
            of_sum = type(layer) is nn.ReLU and is_direct(layer) and is_fresh_sum(node.args[0])
            if node.op != "call_module" and not of_sum and type(layer) not in (MaxPool2d, AvgPool2d, nn.Flatten):
                continue
            both = with_relu(layer, layers.get(follower))
            call = both or (relu_in_place if of_sum else direct(layer))
            if call is layer:
                continue
            calls[node] = call
            replaced.append(layer)
            if both:
                replaced.append(layers[follower])
                follower.replace_all_uses_with(node)
                graph.erase_node(follower)
        return replaced

    def fits(self, module: nn.Module, signature: Signature) -> bool:
        """Whether this is the program for such arguments, with the module as it is."""
        if signature != self._signature or module is not self._module:  # copy.copy shares programs
            return False
        if self._trace is None:
            return module.training == self._training  # stock is right whatever else has changed
        return self._trace.is_current(self._stock.forward) and self._layers_unchanged()


def _join(graph: Graph, calls: dict[Node, Callable]) -> None:
    """Puts the calls in the place of their nodes: operators that only follow each other in one, where the first was.

    Until the last one, the graph may change the first one's input in place.
    """
    for node in list(graph.nodes):
        call = calls.pop(node, None)
        if call is None:
            continue
        nodes, steps = [node], [call]
        while len(nodes[-1].users) == 1 and isinstance(call, OperatorStep):
            (user,) = nodes[-1].users
            if not isinstance(calls.get(user), OperatorStep):
                break
            nodes.append(user)
            steps.append(calls.pop(user))
        (call,) = joined(steps)
        with graph.inserting_after(node):
            joint = graph.call_function(_function(call), (node.args[0],))
        joint.meta = dict(nodes[-1].meta)
        nodes[-1].replace_all_uses_with(joint)
        for replaced in reversed(nodes):
            graph.erase_node(replaced)


def _function(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A plain function, which code made from a graph can name."""

    def function(input: Tensor) -> Tensor:
        return call(input)

    return function


class _Programs(Unpickled):
    """The programs of a module that were used last, for different arguments and modes."""

    def __init__(self) -> None:
        self._recent: tuple[_Program, ...] = ()

    def find(self, module: nn.Module, signature: Signature) -> _Program:
        recent = self._recent
        for program in recent:
            if program.fits(module, signature):
                return program
        program = _Program(module, signature)
        self._recent = (program, *recent[: _PROGRAMS - 1])
        return program


class TracedForward(Converted):
    """Put before a class with a forward of its own in the bases of a class."""

    _plan: _Programs | None = None
    _rng = "torch"  # whose noise samples of latents have

    def _program(self, arguments: tuple, keywords: dict[str, Any]) -> Callable | None:
        signature = signature_of(arguments, keywords)
        if signature is None or is_observed() or "_is_replica" in self.__dict__:  # nn.DataParallel's, for one call
            return None
        if self._plan is None:
            self._plan = _Programs()
        return self._plan.find(self, signature).run


@functools.cache
def traced_class(stock: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `stock` with TracedForward."""

    @functools.wraps(stock.forward)
    def forward(self, *arguments, **keywords):
        # Dynamo can't look for programs. What it compiles is for its backend to fuse.
        program = None if torch.compiler.is_dynamo_compiling() else self._program(arguments, keywords)
        if program is None:
            return stock.forward(self, *arguments, **keywords)
        return program(self, *arguments, *keywords.values())

    return derive(stock, TracedForward, traced_class, forward=forward)
