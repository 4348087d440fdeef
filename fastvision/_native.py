"""Loads libfastvision, which registers the operators in torch.ops.fastvision."""

import torch  # its libraries must be in the process before ours

_BUILD_AGAIN = (
    "`pip install --no-build-isolation --force-reinstall --no-deps .` in fastvision's source directory, "
    "or `make build` for a checkout."
)


def _check_version(built_with: str, installed: str) -> None:
    """Versions that differ in more than the last number do not have the same symbols, or layouts of objects."""
    if built_with.split(".")[:2] != installed.split(".")[:2]:
        raise ImportError(
            f"fastvision was built with torch {built_with}, but torch {installed} is installed. Install "
            f"torch=={'.'.join(built_with.split('.')[:2])}.*, or build fastvision with the torch that is installed: "
            + _BUILD_AGAIN
        )


try:
    from fastvision._built_with import TORCH_VERSION
except ModuleNotFoundError:
    pass  # nothing is built, as the next import will say
else:
    _check_version(TORCH_VERSION, torch.__version__)

try:
    from fastvision import _C
except ImportError as error:
    raise ImportError(
        f"fastvision's native library could not be loaded: {error}\n"
        f"It must be built with the torch that is installed now: {_BUILD_AGAIN}"
    ) from error

__all__ = ["_C"]
