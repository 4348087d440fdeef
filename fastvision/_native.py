"""Loads libfastvision, which registers the operators in torch.ops.fastvision."""

import torch  # noqa: F401  (its libraries must be in the process before ours)

try:
    from fastvision import _C
except ImportError as error:
    raise ImportError(
        f"fastvision's native library could not be loaded: {error}\n"
        "It must be built with the torch that is installed now: "
        "`pip install --no-build-isolation --force-reinstall --no-deps .` in fastvision's source directory, "
        "or `make build` for a checkout."
    ) from error

__all__ = ["_C"]
