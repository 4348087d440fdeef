"""Putting operators in the place of samples and KL divergences that were found in a graph.

What a graph of Dynamo's says of tensors is known when it is compiled. In the graph of an eager forward nothing is: each
call looks at mu and logvar, and runs the formula as it is written where the operator would not do the same.
"""

import operator
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true, sym_eq

from fastvision.convert.chains import example_of
from fastvision.convert.latents import DTYPES, Match, find_divergences, find_samples, group
from fastvision.ops.vae import elbo_loss, reparameterize, reparameterize_kl

_REGIONS = ("_set_grad_enabled", "_enter_autocast", "_exit_autocast")


def replace_compiled(graph: Graph) -> int:
    """Replaces those in a graph that Dynamo captured; how many there were."""
    if any(getattr(node.target, "__name__", "") in _REGIONS for node in graph.nodes):
        return 0
    from torch._inductor import config

    samples = [] if config.fallback_random else find_samples(graph)  # it asks for the noise of eager mode
    exact = [[m for m in matches if _is_exact(m)] for matches in (samples, find_divergences(graph))]
    groups = group(graph, *exact)
    for matches in groups:
        mu, logvar = matches[0].mu, matches[0].logvar
        with graph.inserting_before(_in_order(graph, [match.root for match in matches])[0]):
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
        _put(graph, matches, values)
    return sum(map(len, groups))


def eager_groups(graph: Graph, rng: str) -> list[list[Match]]:
    """What of the graph of an eager forward is replaced. With the noise of torch, samples are not."""
    samples = [match for match in find_samples(graph) if rng == "philox" and draws_like_its_own(match)]
    return group(graph, samples, find_divergences(graph))


def draws_like_its_own(sample: Match) -> bool:
    """Whether the noise has the shape of mu and logvar, where these have one."""
    return sample.noise().args[0] in (sample.inner | {sample.mu, sample.logvar})


def replace_eager(graph: Graph, groups: list[list[Match]]) -> None:
    """Replaces those in the graph of an eager forward."""
    for matches in groups:
        with graph.inserting_before(_in_order(graph, [match.root for match in matches])[0]):
            call = graph.call_function(_guarded(graph, matches), (matches[0].mu, matches[0].logvar))
            values = [graph.call_function(operator.getitem, (call, i)) for i in range(len(matches))]
        _put(graph, matches, values)


def _put(graph: Graph, matches: list[Match], values: list[Node]) -> None:
    """Puts values in the place of the roots, and erases what only these needed."""
    known = _in_order(graph, set().union(*(match.nodes for match in matches)))
    for match, value in zip(matches, values, strict=True):
        value.meta = dict(match.root.meta)
        match.root.replace_all_uses_with(value)
    for node in reversed(known):
        if not node.users:
            graph.erase_node(node)


def _in_order(graph: Graph, nodes: set[Node] | list[Node]) -> list[Node]:
    return [node for node in graph.nodes if node in nodes]


def _kl(mu: Tensor, logvar: Tensor, reduction: str) -> Tensor:
    nothing = mu.new_zeros(1)
    return elbo_loss(nothing, nothing, mu, logvar, reduction=reduction)


def _guarded(graph: Graph, matches: list[Match]) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """The matches' values as a function of mu and logvar."""
    written, fused = _as_written(graph, matches), _fused(matches)
    needs_rows = any(match.rows for match in matches)

    def latents(mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
        if _suits(mu, logvar) and not (needs_rows and mu.dim() != 2):
            return fused(mu, logvar)
        return written(None, mu, logvar)

    return latents


def _suits(mu: Tensor, logvar: Tensor) -> bool:
    device = mu.device
    return (
        mu.dtype == logvar.dtype
        and mu.dtype in DTYPES
        and mu.shape == logvar.shape
        and device == logvar.device
        and device.type in ("cpu", "cuda")
        and not torch.is_autocast_enabled(device.type)
    )


def _fused(matches: list[Match]) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    factor, reduction = matches[-1].factor, matches[-1].reduction
    if reduction is None:
        return lambda mu, logvar: (reparameterize(mu, logvar),)
    if len(matches) == 1:
        return lambda mu, logvar: (_times(_kl(mu, logvar, reduction), factor),)

    def sample_and_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        z, kl = reparameterize_kl(mu, logvar, reduction=reduction)
        return z, _times(kl, factor)

    return sample_and_kl


def _times(kl: Tensor, factor: float) -> Tensor:
    return kl if factor == 1 else kl * factor


def _as_written(graph: Graph, matches: list[Match]) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """The nodes of the matches as a function of mu and logvar."""
    alone = Graph()
    copies = {matches[0].mu: alone.placeholder("mu")}
    copies[matches[0].logvar] = alone.placeholder("logvar")
    for node in _in_order(graph, set().union(*(match.nodes for match in matches))):
        copies[node] = alone.node_copy(node, copies.__getitem__)
    alone.output(tuple(copies[match.root] for match in matches))
    return function_of(alone, "formula of latents")


def function_of(graph: Graph, name: str) -> Callable:
    """A graph as a function of its placeholders, after a first argument that is `self`."""
    code = graph.python_code("self")
    exec(compile(code.src, f"<{name}>", "exec"), code.globals)
    return code.globals["forward"]


def _is_exact(match: Match) -> bool:
    """Whether the operator computes this for the tensors of a graph of Dynamo's."""
    mu, logvar, result = example_of(match.mu), example_of(match.logvar), example_of(match.root)
    if mu is None or logvar is None or result is None or (match.rows and mu.dim() != 2):
        return False
    noise = match.noise()
    shapes = [logvar.shape, *([] if noise is None else [example_of(noise).shape])]
    return (
        mu.dtype == logvar.dtype == result.dtype
        and mu.dtype in DTYPES
        and mu.device == logvar.device
        and mu.device.type in ("cpu", "cuda")
        and not torch.is_autocast_enabled(mu.device.type)
        and all(statically_known_true(sym_eq(tuple(mu.shape), tuple(shape))) for shape in shapes)
    )
