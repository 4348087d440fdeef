"""Finding in a graph a variational autoencoder's sample and KL divergence, as they are mostly written.

    mu + torch.randn_like(std) * std,  std = torch.exp(0.5 * logvar)      the sample
    -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())               KL, or its mean, or mean over the batch

Operations may be functions, methods (in place, too) or operators, terms and factors in any order.
"""

import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from fastvision.convert.chains import nodes_in

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # that have kernels
_NAMES = ("add", "sub", "mul", "div", "neg", "exp", "pow", "square", "sum", "mean")
_FUNCTIONS: dict[Callable, str] = {getattr(torch, name): name for name in (*_NAMES, "randn_like")} | {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "div",
    operator.neg: "neg",
    operator.pow: "pow",
}
_METHODS = {name + ending: name for name in _NAMES for ending in ("", "_")}
_IN_PLACE = {name for name in dir(operator) if name.startswith("i") and hasattr(operator, name[1:])} | {"setitem"}


@dataclass
class Match:
    """A node that is the sample, or a multiple of KL, of these two nodes, and the nodes between.

    It is that where mu and logvar have one shape, dtype and device.

    Attributes:
        reduction: of KL, as `fastvision.ops.elbo_loss` takes it; None for a sample.
        factor: KL is multiplied by.
        rows: whether it is that of matrices only.
    """

    root: Node
    mu: Node
    logvar: Node
    inner: set[Node]
    reduction: str | None = None
    factor: float = 1.0
    rows: bool = False

    @property
    def nodes(self) -> set[Node]:
        """All of the formula, without mu and logvar."""
        return self.inner | {self.root}

    def noise(self) -> Node | None:
        """Where a sample draws."""
        return next((node for node in self.inner if is_call(node, "randn_like")), None)


def find_samples(graph: Graph) -> list[Match]:
    """The samples in a graph whose parts nobody else changes or sees changed."""
    return _matches(graph, _sample)


def find_divergences(graph: Graph) -> list[Match]:
    """The KL divergences in a graph whose parts nobody else changes or sees changed."""
    return [_with_factors(match) for match in _matches(graph, _divergence)]


def group(graph: Graph, samples: list[Match], divergences: list[Match]) -> list[list[Match]]:
    """What one call of an operator can do: a sample and KL of the same mu and logvar, or one of them."""
    groups, left = [], list(divergences)
    for sample in samples:
        both = [[sample, d] for d in left if (d.mu, d.logvar) == (sample.mu, sample.logvar)]
        chosen = next((matches for matches in both if is_movable(graph, matches)), [sample])
        left = [d for d in left if d not in chosen]
        groups.append(chosen)
    groups += [[divergence] for divergence in left]
    return [matches for matches in groups if is_movable(graph, matches)]


def is_movable(graph: Graph, matches: list[Match]) -> bool:
    """Whether all of them may be computed at once, where the first of them is."""
    order = list(graph.nodes)
    known = set().union(*(match.nodes for match in matches))
    first, last = min(map(order.index, known)), max(order.index(match.root) for match in matches)
    between = [node for node in order[first:last] if node not in known]
    seen = _may_share_memory(order, known, {matches[0].mu, matches[0].logvar})
    return not any(_mutates(node) or (node.op == "call_module" and seen & set(nodes_in(node))) for node in between)


def _may_share_memory(order: list[Node], fresh: set[Node], nodes: set[Node]) -> set[Node]:
    """Nodes that may be views of the same tensors: what these were made from, and all that is made from that."""
    seen = set(nodes)
    for node in reversed(order):
        if node in seen:
            seen.update(node.all_input_nodes)
    for node in order:
        if node not in fresh and seen & set(node.all_input_nodes):
            seen.add(node)
    return seen


def resembles(node: Node) -> str | None:
    """What a node that is in no match might be meant as, as the object of a sentence."""
    if is_call(node, "randn_like"):
        return "mu + randn_like(std) * std with std = exp(logvar / 2)"
    reduced = _reduced(node)
    if reduced is None:
        return None
    terms: defaultdict[tuple[str, Any], float] = defaultdict(float)
    _add_terms(reduced[0], 1.0, terms, set())
    kinds = {kind for kind, _ in terms}
    return "the sum or mean of 1 + logvar - mu^2 - exp(logvar)" if {"exp", "itself"} <= kinds else None


def _matches(graph: Graph, find: Callable[[Node], Match | None]) -> list[Match]:
    found = (find(node) for node in graph.nodes)
    return [match for match in found if match is not None and _is_private(match)]


def _is_private(match: Match) -> bool:
    """Whether what the formula changes in place is known to it alone."""
    in_place = [node for node in match.nodes if node.op == "call_method" and node.target.endswith("_")]
    return not match.inner & {match.mu, match.logvar} and all(
        node.args[0] in match.nodes and len(node.args[0].users) == 1 for node in in_place
    )


def _with_factors(match: Match) -> Match:
    """With the multiplications by numbers that follow KL."""
    while list(match.root.users) == [match.root.next]:
        user = match.root.next
        scaled = _scaled(user)
        if scaled is None or scaled[0] is not match.root:
            break
        match = replace(match, root=user, inner=match.nodes, factor=match.factor * scaled[1])
    return match


def _call(node: Any) -> tuple[str, tuple] | None:
    """Name and positional arguments of a call of one of _NAMES; None of all else."""
    if not isinstance(node, Node) or node.op not in ("call_function", "call_method"):
        return None
    name = (_METHODS if node.op == "call_method" else _FUNCTIONS).get(node.target)
    if name in ("sum", "mean") and set(node.kwargs) <= {"dim"}:
        return name, (*node.args, *node.kwargs.values())
    return (name, node.args) if name is not None and not node.kwargs else None


def is_call(node: Any, name: str) -> bool:
    """Whether a node calls a function, method or operator of this name, plainly."""
    call = _call(node)
    return call is not None and call[0] == name


def _scaled(node: Any) -> tuple[Node, float] | None:
    """X and c where a node is c x."""
    call = _call(node)
    if call is None or call[0] not in ("mul", "div", "neg"):
        return None
    name, (x, *others) = call
    if name == "neg":
        return x, -1.0
    (c,) = others
    if name == "mul" and isinstance(x, int | float):
        x, c = c, x
    if not isinstance(c, int | float) or not isinstance(x, Node) or c == 0:
        return None
    return x, (c if name == "mul" else 1 / c)


def _sample(root: Node) -> Match | None:
    if not is_call(root, "add") or len(root.args) != 2:
        return None
    for mu, product in (root.args, reversed(root.args)):
        if not is_call(product, "mul"):
            continue
        for noise, deviation in (product.args, reversed(product.args)):
            half = deviation.args[0] if is_call(deviation, "exp") else None
            scaled = _scaled(half)
            if not is_call(noise, "randn_like") or len(noise.users) != 1 or scaled is None or scaled[1] != 0.5:
                continue
            if isinstance(mu, Node) and mu not in (noise, deviation, half):
                return Match(root, mu, scaled[0], {product, noise, deviation, half})
    return None


def _divergence(root: Node) -> Match | None:
    reduced = _reduced(root)
    if reduced is None:
        return None
    elements, reduction, scale, inner, rows = reduced
    terms: defaultdict[tuple[str, Any], float] = defaultdict(float)
    _add_terms(elements, 1.0, terms, inner)
    kinds = {kind: (of, factor) for (kind, of), factor in terms.items()}
    if len(terms) != 4 or set(kinds) != {"one", "itself", "square", "exp"}:
        return None
    (mu, by_square), (logvar, by_exp), (_, factor) = kinds["square"], kinds["exp"], kinds["one"]
    if kinds["itself"] != (logvar, factor) or by_square != -factor or by_exp != -factor:
        return None
    return Match(root, mu, logvar, inner, reduction, -2 * factor * scale, rows)


def _reduced(root: Node) -> tuple[Node, str, float, set[Node], bool] | None:
    """Of a sum or mean: what is reduced, by which of our reductions, a factor, nodes between, and `Match.rows`."""
    call = _call(root)
    if call is None or call[0] not in ("sum", "mean"):
        return None
    name, (x, *dims) = call
    if name == "mean" and dims in ([], [0], [[0]], [(0,)]):
        inner, factor, total = set(), 1.0, x
        while (scaled := _scaled(total)) is not None:
            inner.add(total)
            total, factor = scaled[0], factor * scaled[1]
        if is_call(total, "sum") and _call(total)[1][1:] in [(d,) for one in (1, -1) for d in (one, [one], (one,))]:
            elements = total.args[0]
            return (elements, "batchmean", factor, inner | {total}, True) if isinstance(elements, Node) else None
    return (x, name, 1.0, set(), False) if not dims and isinstance(x, Node) else None


def _add_terms(x: Any, factor: float, terms: defaultdict[tuple[str, Any], float], inner: set[Node]) -> None:
    """Adds the terms of factor * x, a sum: of kind 'one', 'itself', 'square' or 'exp', each of a node."""
    if isinstance(x, int | float):
        terms["one", None] += factor * x
        return
    name, arguments = _call(x) or ("", ())
    scaled = _scaled(x)
    if name in ("add", "sub") and len(arguments) == 2:
        _add_terms(arguments[0], factor, terms, inner)
        _add_terms(arguments[1], factor if name == "add" else -factor, terms, inner)
    elif scaled is not None:
        _add_terms(scaled[0], factor * scaled[1], terms, inner)
    elif name in ("square", "exp"):
        terms[name, arguments[0]] += factor
    elif (name == "pow" and arguments[1] == 2) or (name == "mul" and arguments[0] is arguments[1]):
        terms["square", arguments[0]] += factor
    else:
        terms["itself", x] += factor
        return
    inner.add(x)


def _mutates(node: Node) -> bool:
    """Whether a call may change one of its arguments."""
    if node.op == "call_method":
        return node.target.endswith("_")
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and (
        (name.endswith("_") and not name.startswith("__"))
        or name in _IN_PLACE
        or "out" in node.kwargs
        or bool(node.kwargs.get("inplace"))
        or (hasattr(F, name) and node.args[-1:] == (True,))  # `inplace` by position
    )
