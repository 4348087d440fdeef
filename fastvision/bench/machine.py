"""The machine that is measured, and what it can do at best."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvision._native import _C
from fastvision.cli.info import environment

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_MEMORY_BYTES = 256 << 20  # at least, and four times the largest cache up to _MOST_BYTES
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Bandwidth:
    """How fast one thread reads a buffer of `buffer_bytes`, in bytes per second."""

    buffer_bytes: int
    bytes_per_second: float


@dataclass(frozen=True)
class Machine:
    """Facts and limits of the machine, for fastvision's instruction set in use.

    Attributes:
        facts: versions, processor, instruction sets, threads (fastvision.cli.info.environment), with
            stock_cpu_capability (the instruction set of stock PyTorch) and commit (of fastvision's sources; '-dirty'
            with changes; None where they are not a git checkout).
        fma_flops_per_core: fp32 multiply-adds from registers on one core, FLOP/s.
        read_bandwidth: by level of the memory hierarchy ('L1', 'L2', ..., 'memory').
    """

    facts: dict[str, object]
    fma_flops_per_core: float
    read_bandwidth: dict[str, Bandwidth]

    def level(self, size: float) -> str:
        """The first level of the memory hierarchy that holds so many bytes, its buffer being half of the cache."""
        levels = list(self.read_bandwidth)
        return next((name for name in levels if size <= 2 * self.read_bandwidth[name].buffer_bytes), levels[-1])


def measure_machine() -> Machine:
    """Takes about a second."""
    facts = environment() | {
        "stock_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "commit": source_commit(Path(__file__)),
    }
    # A peak is what undisturbed windows show; short ones fit between disturbances.
    peak = max(_C.measure_fma_peak(0.002) for _ in range(100))
    return Machine(facts, peak, {level: _bandwidth(size) for level, size in _buffer_sizes().items()})


def _bandwidth(size: int) -> Bandwidth:
    if size >= _MEMORY_BYTES:  # filling the buffer takes longer than reading it
        return Bandwidth(size, _C.measure_read_bandwidth(size, 0.1))
    return Bandwidth(size, max(_C.measure_read_bandwidth(size, 0.002) for _ in range(25)))


def _buffer_sizes() -> dict[str, int]:
    """Bytes that fit each cache twice, and bytes that fit none."""
    caches = cache_sizes(_CACHES)
    memory = min(max([_MEMORY_BYTES, *(4 * size for size in caches.values())]), _MOST_BYTES)
    return {level: size // 2 for level, size in caches.items()} | {"memory": memory}


def cache_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each data cache as Linux lists them in /sys; empty on other systems."""
    sizes = {}
    for index in sorted(directory.glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size.removesuffix("K")) << 10
    return sizes


def source_commit(file: Path) -> str | None:
    """The commit of the git checkout that tracks `file`, '-dirty' with changes; None where none does."""
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()
