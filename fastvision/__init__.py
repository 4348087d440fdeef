"""fastvision makes existing PyTorch vision and sequence models faster without changing what they compute."""

from fastvision import _native  # noqa: F401  (registers the operators)
from fastvision import backends, ops
from fastvision.version import __version__

__all__ = ["__version__", "backends", "ops"]
