"""Whether the peers compute the right thing, before anyone times them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# In multiples of stock's own error: finds what is wrong, not what is rounded differently. Stock PyTorch itself, run
# channels_last, is four times as far off where a sum has thousands of terms.
_LIMIT_TO_STOCK = 10.0
# Relative to the gradient. Rounding decides which of two nearly equal inputs wins a maximum, and whether ReLU lets a
# value near zero pass: rarely, but each time a whole element of the gradient moves.
_GRADIENT_LIMIT = 1e-2


@dataclass(frozen=True)
class Accuracy:
    """How far the results of one call are from the float64 reference.

    Attributes:
        errors: for each result by name, the root mean square of its error relative to that of the reference; empty
            where the results do not have the reference's shapes.
        failure: what is wrong, as a sentence, or None.
    """

    errors: dict[str, float]
    failure: str | None = None


def as_tensors(results: object) -> tuple[Tensor, ...]:
    """What a call returned (a tensor, or a sequence of tensors or numpy arrays) as a tuple of tensors.

    Raises:
        TypeError: results is anything else.
    """
    if isinstance(results, Tensor):
        return (results,)
    if not isinstance(results, Sequence):
        raise TypeError(f"results: expected a tensor or a sequence of arrays, got {type(results).__name__}")
    return tuple(torch.as_tensor(result) for result in results)


def compare(results: Sequence[Tensor], reference: Sequence[Tensor], names: Sequence[str]) -> Accuracy:
    """Errors of `results` against `reference`, of which `names` are the names. Only shapes are judged."""
    shapes, expected = ([tuple(t.shape) for t in tensors] for tensors in (results, reference))
    if shapes != expected:
        return Accuracy({}, f"shapes of {', '.join(names)}: expected {expected}, got {shapes}")
    pairs = zip(names, results, reference, strict=True)
    return Accuracy({name: _relative_rms_error(result, exact) for name, result, exact in pairs})


def judge(accuracy: Accuracy, stock: Accuracy, dtype: torch.dtype, tolerance: float = 0.0) -> Accuracy:
    """The accuracy with `failure` set where an error is beyond `tolerance` and what rounding in dtype explains."""
    if accuracy.failure:
        return accuracy
    for name, error in accuracy.errors.items():
        limit = max(tolerance, _LIMIT_TO_STOCK * max(stock.errors[name], torch.finfo(dtype).eps))
        if name.startswith("grad_"):
            limit = max(limit, _GRADIENT_LIMIT)
        if not error <= limit:  # NaN included
            return Accuracy(accuracy.errors, f"{name}: relative rms error {error:.1e}, limit {limit:.1e}")
    return accuracy


def error_to_stock(accuracy: Accuracy, stock: Accuracy) -> float | None:
    """The largest quotient of an error and stock's; None where stock's results are exact or there are no errors."""
    quotients = [error / stock.errors[name] for name, error in accuracy.errors.items() if stock.errors[name] > 0]
    return math.nan if any(map(math.isnan, quotients)) else max(quotients, default=None)


def _relative_rms_error(result: Tensor, exact: Tensor) -> float:
    return (torch.linalg.vector_norm(result.double() - exact) / torch.linalg.vector_norm(exact)).item()
