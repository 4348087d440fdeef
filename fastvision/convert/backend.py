"""The backend of torch.compile: `torch.compile(model, backend="fastvision")`.

In the graph that Dynamo captures, chains of convolution, batch normalisation in eval mode, ReLU and pooling become one
operator each. The rest, and the graph of the gradients, is Inductor's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fastvision.convert.chains import Chain, example_of, find_chains, function_layer, fuse, nodes_in
from fastvision.convert.latent_calls import replace_compiled
from fastvision.convert.runs import FOLDED_DTYPES
from fastvision.ops.conv import explicit_padding

_operator = torch.ops.fastvision.conv2d_pool2d.default
_operator_with_norm = torch.ops.fastvision.conv2d_batch_norm_pool2d.default


def fastvision(
    graph_module: GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable:
    """Compiles a graph with fastvision's operators in it. For `torch.compile(..., backend="fastvision")`.

    Args:
        graph_module: as Dynamo captures it. It is changed.
        example_inputs: as Dynamo gives them.
        mode: of Inductor, as torch.compile's.
        options: Inductor's, and 'inner': another backend to compile the rest, by its name or as a function.

    Returns:
        What calls the compiled graph.
    """
    fuse_graph(graph_module)
    options = dict(options or {})
    inner = options.pop("inner", "inductor")
    if inner != "inductor":
        return torch._dynamo.lookup_backend(inner)(graph_module, example_inputs)
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    patches = {**(list_mode_options(mode) if mode and mode != "default" else {}), **options}
    return compile_fx(graph_module, example_inputs, config_patches=patches)


def fuse_graph(graph_module: GraphModule) -> int:
    """Replaces the chains, samples and KLs in a graph that Dynamo captured; how many there were."""
    chains = [chain for chain in find_chains(graph_module.graph, _layer) if chain.length > 1 and _pays(chain)]
    for chain in chains:
        fuse(graph_module.graph, chain, _fused, _arguments(chain))
    latents = replace_compiled(graph_module.graph)
    graph_module.recompile()
    return len(chains) + latents


def _fused(
    input: Tensor, weight: Tensor, bias: Tensor | None, norm: tuple | None, padding: Any, options: dict[str, Any]
) -> Tensor:
    options = {**options, "padding": padding}
    if norm is None:
        return _operator(input, weight, bias, **options)
    return _operator_with_norm(input, weight, bias, *norm, **options)


def _convolution(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return {"weight": weight, "bias": bias, "options": (stride, padding, dilation, groups)}


def _norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-05):
    return {"tensors": (running_mean, running_var, weight, bias), "training": training, "eps": eps}


def _layer(node: Node) -> nn.Module | None:
    """A layer without values that is what a call of a function is; None if it is none that is known."""
    if node.op != "call_function" or not node.args or nodes_in(node).count(node.args[0]) != 1:
        return function_layer(node)
    if node.target is torch.conv2d:
        return _convolution_layer(node)
    if node.target is F.batch_norm:
        return _norm_layer(node)
    return function_layer(node)


def _convolution_layer(node: Node) -> nn.Conv2d | None:
    call = _convolution(*node.args, **node.kwargs)
    weight = example_of(call["weight"])
    sizes = [] if weight is None else list(weight.shape)
    constants = not any(isinstance(value, Node) for value in torch.utils._pytree.tree_leaves(call["options"]))
    if len(sizes) != 4 or not all(type(size) is int for size in sizes) or not constants:
        return None
    outputs, inputs, *kernel = sizes
    groups = call["options"][-1]
    try:
        return nn.Conv2d(inputs * groups, outputs, kernel, *call["options"], device="meta", dtype=weight.dtype)
    except ValueError:
        return None  # stock's own refusal is for the call


def _norm_layer(node: Node) -> nn.BatchNorm2d | None:
    call = _norm(*node.args, **node.kwargs)
    examples = [example_of(tensor) for tensor in call["tensors"]]
    inputs_first = all(tensor is None or tensor.op == "placeholder" for tensor in call["tensors"])
    if call["training"] is not False or None in examples[:2] or not inputs_first or not isinstance(call["eps"], float):
        return None
    return nn.BatchNorm2d(len(examples[0]), device="meta", dtype=examples[0].dtype).eval()


def _pays(chain: Chain) -> bool:
    """Whether batch normalisation, if there is any, can be folded, and at this size of input should be."""
    run = chain.run()
    if run.norm is None:
        return True
    input = example_of(chain.nodes[0].args[0])
    weight, mean = run.convolution.weight, run.norm.running_mean
    return (
        input is not None
        and input.dim() == 4
        and weight.dtype == mean.dtype
        and weight.dtype in FOLDED_DTYPES
        and len(mean) == len(weight)
        # Without gradients folding costs nothing. A symbolic size is left alone: asking for it would bind the graph to
        # some batch sizes.
        and (not torch.is_grad_enabled() or type(input.numel()) is not int or input.numel() >= run.least_input)
    )


def _arguments(chain: Chain) -> tuple:
    run, (node, *others) = chain.run(), chain.nodes
    call = _convolution(*node.args, **node.kwargs)
    stride, padding, dilation, _ = call["options"]
    padding = explicit_padding(padding, run.convolution.kernel_size, stride, dilation)
    norm = None
    if run.norm is not None:
        norm_call = next(_norm(*n.args, **n.kwargs) for n in others if n.target is F.batch_norm)
        norm = (*norm_call["tensors"], norm_call["eps"])
    return node.args[0], call["weight"], call["bias"], norm, padding, run.options
