"""The machine that is measured, and what it can do at best."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvision._native import _C
from fastvision.cli.info import environment

_CPU = Path("/sys/devices/system/cpu/cpu0")
_MEMORY_BYTES = 256 << 20  # at least, and four times the largest cache up to _MOST_BYTES
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Bandwidth:
    """How fast one thread reads a buffer of `buffer_bytes`, in bytes per second. `cache_bytes`: None of memory."""

    buffer_bytes: int
    bytes_per_second: float
    cache_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """Facts and limits of the machine, for fastvision's instruction set in use.

    Attributes:
        facts: versions, processor, instruction sets, threads (fastvision.cli.info.environment), with
            stock_cpu_capability (the instruction set of stock PyTorch) and commit (of fastvision's sources; '-dirty'
            with changes; None where they are not a git checkout), caches (bytes by level) and governor (of the first
            core's clock frequency; None where Linux does not tell).
        fma_flops_per_core: fp32 multiply-adds from registers on one core, FLOP/s.
        read_bandwidth: by level of the memory hierarchy ('L1', 'L2', ..., 'memory').
    """

    facts: dict[str, object]
    fma_flops_per_core: float
    read_bandwidth: dict[str, Bandwidth]

    def level(self, size: float) -> str:
        """The first level of the memory hierarchy that holds so many bytes."""
        levels = self.read_bandwidth.items()
        return next(name for name, read in levels if read.cache_bytes is None or size <= read.cache_bytes)


def measure_machine() -> Machine:
    """Takes one or two seconds."""
    caches = cache_sizes(_CPU / "cache")
    facts = environment() | {
        "stock_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "commit": source_commit(Path(__file__)),
        "caches": caches,
        "governor": governor(_CPU / "cpufreq"),
    }
    # A peak is what undisturbed windows show; short ones fit between disturbances.
    peak = max(_C.measure_fma_peak(0.002) for _ in range(100))
    reads = {
        level: Bandwidth(size, _bandwidth(size), caches.get(level)) for level, size in buffer_sizes(caches).items()
    }
    return Machine(facts, peak, reads)


def _bandwidth(size: int) -> float:
    if size >= _MEMORY_BYTES:  # filling the buffer takes longer than reading it
        return _C.measure_read_bandwidth(size, 0.1)
    return max(_C.measure_read_bandwidth(size, 0.002) for _ in range(100))


def buffer_sizes(caches: Mapping[str, int]) -> dict[str, int]:
    """Bytes to read from each cache, given their sizes, the smallest first, and from memory.

    Half of the cache, but of a large one no more than four times the cache before it: all of that comes from the large
    one, which is shared and the slower the more of it is read.
    """
    sizes, before = {}, None
    for level, size in caches.items():
        sizes[level] = min(size // 2, 4 * before) if before else size // 2
        before = size
    sizes["memory"] = min(max([_MEMORY_BYTES, *(4 * size for size in caches.values())]), _MOST_BYTES)
    return sizes


def cache_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each data cache as Linux lists them in /sys; empty on other systems."""
    sizes = {}
    for index in sorted(directory.glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size.removesuffix("K")) << 10
    return sizes


def governor(directory: Path) -> str | None:
    """What chooses the clock frequency, as Linux names it in /sys; None where it does not, as in virtual machines."""
    file = directory / "scaling_governor"
    return file.read_text().strip() if file.exists() else None


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
