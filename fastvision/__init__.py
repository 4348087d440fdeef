"""fastvision makes existing PyTorch vision and sequence models faster without changing what they compute."""

from fastvision import (
    _native,  # noqa: F401  (registers the operators)
    backends,
    nn,
    ops,
)
from fastvision.convert import Report, convert, explain, revert
from fastvision.export import export, library_path, load
from fastvision.version import __version__

__all__ = [
    "Report",
    "__version__",
    "backends",
    "convert",
    "explain",
    "export",
    "library_path",
    "load",
    "nn",
    "ops",
    "revert",
]
