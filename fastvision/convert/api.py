"""convert and revert."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastvision.convert.check import check_outputs, outputs_in_eval_mode
from fastvision.convert.converted import Converted, stock_class
from fastvision.convert.layers import original, replacement
from fastvision.convert.sequential import fused_class, has_runs_or_linear, runs_its_children
from fastvision.convert.traced import TracedForward, has_gains, traced_class
from fastvision.nn.storage import StoredWeights, check_weight_dtype


def convert(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    inplace: bool = False,
    weight_dtype: torch.dtype | None = None,
    rng: str = "torch",
) -> nn.Module:
    """Makes a model faster without changing what it computes.

    In every nn.Sequential (and subclass that keeps its forward), successive layers

        Conv2d[, BatchNorm2d][, ReLU][, MaxPool2d | AvgPool2d]

    run as one operator, `fastvision.ops.conv2d_pool2d`. Identity, and Dropout in eval mode, may stand between them.
    BatchNorm2d is folded into the weights in eval mode and runs as it is in training mode. So do layers that a forward
    of the model's own calls one after the other, as modules or as functions (`F.relu`, `F.max_pool2d`), where torch.fx
    can trace it and nothing would be lost that it does besides. The layers themselves stay in the model: parameters,
    state_dict keys, names, indexing, hooks and train/eval are what they were. A layer that has hooks is called as
    before.

    In the same forwards the KL divergence of a variational autoencoder, where it is written as
    `-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())` or alike, becomes one operator, and so does the sample
    `mu + torch.randn_like(std) * std`, `std = torch.exp(0.5 * logvar)`, if `rng` allows it.

    Linear, MaxPool2d, AvgPool2d, LSTM, GRU, LSTMCell and GRUCell, anywhere in the model, become those of fastvision.nn,
    in place: the layer keeps its identity, parameters, hooks and mode. So does a Conv2d that is faster also where
    nothing that follows it can be fused: with a 3x3 kernel, stride 1 and 16 input channels or more, or with fewer than
    16 output channels, in all or per group. In forwards that are traced, `F.max_pool2d` and `F.avg_pool2d` behind no
    convolution become those of `fastvision.ops`. `fastvision.explain` lists what is replaced, what is not, and why.

    Args:
        model: any module; what it is made of is found at any depth.
        example_inputs: a tensor, or a tuple of positional arguments. If given, model and result run on them in eval
            mode without gradients, and their outputs are compared.
        inplace: True converts `model` itself and returns it. False leaves it untouched and returns a copy.
        weight_dtype: torch.bfloat16 or torch.int8 is assigned to the `weight_dtype` of all Linear, LSTM, GRU and their
            cells: inference then reads their weights in fewer bits, which changes what it computes, after the
            comparison on example_inputs. `fastvision.explain` says how far the weights moved. None leaves it as it is.
        rng: whose noise a sample of latents has. 'torch': that of torch.randn_like, so that torch.manual_seed gives the
            model's own numbers; the sample stays as it is written. 'philox': fastvision's, other numbers of the same
            distribution, in a fraction of the time. The comparison on example_inputs is made before, with torch's.

    Returns:
        The converted model.

    Raises:
        TypeError: model is not a module.
        ValueError: weight_dtype is another dtype, or rng neither of these.
        RuntimeError: model can't be copied, or the outputs for example_inputs differ by more than rounding.
    """
    _check_module(model)
    check_weight_dtype(weight_dtype)
    if rng not in ("torch", "philox"):
        raise ValueError(f"rng: expected 'torch' or 'philox', got {rng!r}")
    expected = None if example_inputs is None else outputs_in_eval_mode(model, example_inputs)
    converted = model if inplace else _copy(model)
    # Listed before any class changes, so that what is found does not depend on the order.
    found = [(m, _converted_class(m, rng)) for m in converted.modules()]
    found = [(m, kind) for m, kind in found if kind is not None]
    for module, kind in found:
        module.__class__ = kind
    if example_inputs is not None:
        try:
            check_outputs(outputs_in_eval_mode(converted, example_inputs), expected)
        except BaseException:
            _restore([module for module, _ in found])
            raise
    if weight_dtype is not None:
        for module in converted.modules():
            if isinstance(module, StoredWeights) and original(module) is not None:
                module.weight_dtype = weight_dtype
    for module in converted.modules():
        if isinstance(module, TracedForward) and module._rng != rng:
            module._rng, module._plan = rng, None
    return converted


def revert(model: nn.Module) -> nn.Module:
    """Turns a converted model back into its stock layers, in place, and returns it.

    Modules that were made as fastvision.nn.Conv2d, Linear, MaxPool2d, AvgPool2d, LSTM, GRU, LSTMCell or GRUCell become
    stock, too, except those with zoneout or recurrent dropout, which stock has not.

    Raises:
        TypeError: model is not a module.
    """
    _check_module(model)
    _restore([m for m in model.modules() if _original_class(m) is not None])
    return model


def _converted_class(module: nn.Module, rng: str) -> type[nn.Module] | None:
    """The class that this module gets by conversion; None if it keeps its own."""
    if isinstance(module, Converted):
        return None
    if runs_its_children(module):
        return _derived(fused_class, module) if has_runs_or_linear(module) else None
    return replacement(module) or (_derived(traced_class, module) if has_gains(module, rng) else None)


def _derived(derive: Callable[[type[nn.Module]], type[nn.Module]], module: nn.Module) -> type[nn.Module] | None:
    try:
        return derive(type(module))
    except Exception:  # from a metaclass or __init_subclass__ that does not take just any subclass
        return None


def _original_class(module: nn.Module) -> type[nn.Module] | None:
    """The stock class of a converted module; None if there is nothing to revert."""
    return stock_class(module) or original(module)


def _restore(modules: list[nn.Module]) -> None:
    for module in modules:
        module.__class__ = _original_class(module)
        for name in ("_plan", "_storage", "_rng", "_fresh", "_fused", "_fused_settings", "_prepared"):
            module.__dict__.pop(name, None)


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise RuntimeError(
            f"model: {type(model).__name__} can't be copied ({error}); expected a model that copy.deepcopy takes, "
            "or inplace=True"
        ) from error


def _check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
