"""The benchmark suite: fastvision beside stock PyTorch and its peers, checked first, then timed.

`app` is the typer application behind `fastvision bench`. docs/benchmarking.md describes method and report.
"""

from fastvision.bench.commands import app

__all__ = ["app"]
