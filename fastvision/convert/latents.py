"""Finding in a graph of Dynamo's a variational autoencoder's sample and KL divergence, as they are mostly written.

    mu + torch.randn_like(std) * std,  std = torch.exp(0.5 * logvar)      the sample
    -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())               KL, or its mean, or mean over the batch

Operations may be functions, methods (in place, too) or operators, terms and factors in any order.
"""

import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true, sym_eq

from fastvision.convert.chains import example_of
from fastvision.ops.vae import elbo_loss, reparameterize, reparameterize_kl

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # that have kernels
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
_REGIONS = ("_set_grad_enabled", "_enter_autocast", "_exit_autocast")


@dataclass
class _Match:
    """A node that is the sample, or a multiple of KL, of these two nodes, and the nodes between."""

    root: Node
    mu: Node
    logvar: Node
    inner: set[Node]
    reduction: str | None = None  # None: the sample
    factor: float = 1.0  # of KL


def replace_latents(graph: Graph) -> int:
    """Puts operators in the place of samples and KLs; how many of these there were."""
    if any(getattr(node.target, "__name__", "") in _REGIONS for node in graph.nodes):
        return 0
    from torch._inductor import config

    samples = [] if config.fallback_random else _matches(graph, _sample)  # it asks for the noise of eager mode
    divergences = _matches(graph, _divergence)
    groups: list[list[_Match]] = []
    for sample in samples:
        of_both = [d for d in divergences if (d.mu, d.logvar) == (sample.mu, sample.logvar)][:1]
        divergences = [d for d in divergences if d not in of_both]
        groups.append([sample, *of_both])
    groups += [[divergence] for divergence in divergences]
    return sum(len(group) for group in groups if _replace(graph, group))


def _matches(graph: Graph, find: Callable[[Node], _Match | None]) -> list[_Match]:
    found = (find(node) for node in graph.nodes)
    return [match for match in found if match is not None and _is_exact(match)]


def _replace(graph: Graph, matches: list[_Match]) -> bool:
    """Puts one call in the place of the roots, unless something between changes tensors in place."""
    order = list(graph.nodes)
    known = set().union(*({match.root} | match.inner for match in matches))
    first, last = min(map(order.index, known)), max(order.index(match.root) for match in matches)
    if any(node not in known and _mutates(node) for node in order[first:last]):
        return False
    roots = sorted((match.root for match in matches), key=order.index)
    mu, logvar = matches[0].mu, matches[0].logvar
    with graph.inserting_before(roots[0]):
        if len(matches) == 2:
            both = graph.call_function(reparameterize_kl, (mu, logvar), {"reduction": matches[1].reduction})
            values = [graph.call_function(operator.getitem, (both, i)) for i in range(2)]
        elif matches[0].reduction is None:
            values = [graph.call_function(reparameterize, (mu, logvar))]
        else:
            values = [graph.call_function(_kl, (mu, logvar, matches[0].reduction))]
        for i, match in enumerate(matches):
            if match.factor != 1:
                values[i] = graph.call_function(operator.mul, (values[i], match.factor))
            values[i].meta = dict(match.root.meta)
            match.root.replace_all_uses_with(values[i])
    for node in reversed(order):
        if node in known and not node.users:
            graph.erase_node(node)
    return True


def _kl(mu: Tensor, logvar: Tensor, reduction: str) -> Tensor:
    nothing = mu.new_zeros(1)
    return elbo_loss(nothing, nothing, mu, logvar, reduction=reduction)


def _call(node: Any) -> tuple[str, tuple] | None:
    """Name and positional arguments of a call of one of _NAMES; None of all else."""
    if not isinstance(node, Node) or node.op not in ("call_function", "call_method"):
        return None
    name = (_METHODS if node.op == "call_method" else _FUNCTIONS).get(node.target)
    if name in ("sum", "mean") and set(node.kwargs) <= {"dim"}:
        return name, (*node.args, *node.kwargs.values())
    return (name, node.args) if name is not None and not node.kwargs else None


def _is(node: Any, name: str) -> bool:
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


def _sample(root: Node) -> _Match | None:
    if not _is(root, "add") or len(root.args) != 2:
        return None
    for mu, product in (root.args, reversed(root.args)):
        if not _is(product, "mul"):
            continue
        for noise, deviation in (product.args, reversed(product.args)):
            half = deviation.args[0] if _is(deviation, "exp") else None
            scaled = _scaled(half)
            if not _is(noise, "randn_like") or len(noise.users) != 1 or scaled is None or scaled[1] != 0.5:
                continue
            if isinstance(mu, Node) and mu not in (noise, deviation, half):
                return _Match(root, mu, scaled[0], {product, noise, deviation, half})
    return None


def _divergence(root: Node) -> _Match | None:
    reduced = _reduced(root)
    if reduced is None:
        return None
    elements, reduction, scale, inner = reduced
    terms: defaultdict[tuple[str, Any], float] = defaultdict(float)
    _add_terms(elements, 1.0, terms, inner)
    kinds = {kind: (of, factor) for (kind, of), factor in terms.items()}
    if len(terms) != 4 or set(kinds) != {"one", "itself", "square", "exp"}:
        return None
    (mu, by_square), (logvar, by_exp), (_, factor) = kinds["square"], kinds["exp"], kinds["one"]
    if kinds["itself"] != (logvar, factor) or by_square != -factor or by_exp != -factor:
        return None
    return _Match(root, mu, logvar, inner, reduction, -2 * factor * scale)


def _reduced(root: Node) -> tuple[Node, str, float, set[Node]] | None:
    """Of a sum or mean: what is reduced, by which of our reductions, a factor, and nodes between."""
    call = _call(root)
    if call is None or call[0] not in ("sum", "mean"):
        return None
    name, (x, *dims) = call
    if name == "mean" and dims in ([], [0], [[0]], [(0,)]):
        inner, factor, total = set(), 1.0, x
        while (scaled := _scaled(total)) is not None:
            inner.add(total)
            total, factor = scaled[0], factor * scaled[1]
        if _is(total, "sum") and _call(total)[1][1:] in [(d,) for one in (1, -1) for d in (one, [one], (one,))]:
            elements = total.args[0]
            two = isinstance(elements, Node) and (example := example_of(elements)) is not None and example.dim() == 2
            return (elements, "batchmean", factor, inner | {total}) if two else None
    return (x, name, 1.0, set()) if not dims and isinstance(x, Node) else None


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


def _is_exact(match: _Match) -> bool:
    """Whether the operator computes this for these tensors, and nobody sees what it leaves out."""
    mu, logvar, result = example_of(match.mu), example_of(match.logvar), example_of(match.root)
    if mu is None or logvar is None or result is None or match.inner & {match.mu, match.logvar}:
        return False
    nodes = match.inner | {match.root}
    shapes = [logvar.shape, *(example_of(node).shape for node in nodes if _is(node, "randn_like"))]
    in_place = [node for node in nodes if node.op == "call_method" and node.target.endswith("_")]
    return (
        mu.dtype == logvar.dtype == result.dtype
        and mu.dtype in _DTYPES
        and mu.device == logvar.device
        and mu.device.type in ("cpu", "cuda")
        and not torch.is_autocast_enabled(mu.device.type)
        and all(statically_known_true(sym_eq(tuple(mu.shape), tuple(shape))) for shape in shapes)
        # What is changed in place is known to this formula only.
        and all(node.args[0] in nodes and len(node.args[0].users) == 1 for node in in_place)
    )


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
