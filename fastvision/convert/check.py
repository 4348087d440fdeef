"""Comparing what a model computes before and after its conversion."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def outputs_in_eval_mode(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    """The tensors in the model's output, computed without gradients and without leaving a trace in the model."""
    arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            output = model.eval()(*arguments)
    finally:
        for module, training in modes:
            module.training = training
    # Layers may write in place: what is compared later must not change with it.
    return [leaf.clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def check_outputs(outputs: list[Tensor], expected: list[Tensor]) -> None:
    """Raises RuntimeError where two lists of outputs differ by more than the rounding of a deep model.

    That is taken to be the square root of the dtype's machine epsilon, relative to the largest finite output.
    """
    for index, (actual, stock) in enumerate(zip(outputs, expected, strict=True)):
        tolerance = math.sqrt(torch.finfo(stock.dtype).eps) if stock.is_floating_point() else 0.0
        finite = stock[stock.isfinite()]
        largest = finite.abs().max().item() if finite.numel() else 0.0
        try:
            torch.testing.assert_close(actual, stock, rtol=0, atol=tolerance * largest, equal_nan=True)
        except AssertionError as error:
            raise RuntimeError(
                f"example_inputs: output {index} of the converted model differs from the model's own; expected at "
                f"most {tolerance:.1e} of the largest output\n{error}"
            ) from error
