"""What fastvision is measured beside."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastvision.bench.limits import Read

BASELINE = "stock"
OURS = "fastvision"


class Task(Protocol):
    """A benchmark case with its tensors; each family has its own class."""

    @property
    def name(self) -> str:
        """The case's name."""

    @property
    def mode(self) -> str:
        """'infer' or 'train'."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors."""

    @property
    def threads(self) -> int:
        """How many threads a peer may use."""

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""

    @property
    def reads(self) -> tuple[Read, ...]:
        """What one call has to read and write; empty where its time is not the limit, or not known."""

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what is compared of one call; gradients start with 'grad_'."""

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64."""

    def as_results(self, returned: object) -> tuple[Tensor, ...]:
        """What a peer's call returned, in the shapes of the reference. Not timed."""


class Peer(Protocol):
    """An implementation that runs tasks of one family.

    Attributes:
        name: as `--peers` takes it.
        title: as tables print it.
        default: whether it takes part when `--peers` is not given.
        tolerance: relative rms error that its results may have; need not be there where it computes in full.
    """

    name: str
    title: str
    default: bool

    def missing(self) -> str | None:
        """What to install so that it can run on this machine, as a sentence; None where nothing is missing."""

    def unsupported(self, task: Task) -> str | None:
        """Why it cannot run this task, or None."""

    def prepare(self, task: Task) -> Callable[[], object]:
        """Everything that is not timed; returns what is: a call that computes the task's results in order."""

    def version(self) -> str:
        """Version of the software that it runs."""


def missing_packages(title: str, *packages: str) -> str | None:
    """A sentence that says which of the packages to install, or None where all are there."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"{title} is left out: `pip install {' '.join(absent)}` adds it." if absent else None


def choose(peers: Sequence[Peer], wish: str | None) -> list[Peer]:
    """fastvision, the baseline, and the peers wished for.

    Args:
        peers: all of a family.
        wish: names with commas between them, 'all', or None for the default ones.

    Raises:
        ValueError: a name that no peer has.
    """
    names = [peer.name for peer in peers]
    if wish is None:
        wished = [peer.name for peer in peers if peer.default]
    else:
        wished = names if wish == "all" else [name.strip() for name in wish.split(",") if name.strip()]
    if unknown := [name for name in wished if name not in names]:
        raise ValueError(f"peers: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    return [peer for peer in peers if peer.name in {OURS, BASELINE, *wished}]
