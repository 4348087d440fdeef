"""What a call costs in memory."""

import ctypes
import resource
from collections.abc import Callable
from dataclasses import dataclass

from fastvision import _resident
from fastvision.backends import cpu


@dataclass(frozen=True)
class Memory:
    """Of one call among many.

    Attributes:
        page_faults: minor ones (4 KB each, unless pages are huge), of all threads.
        peak_bytes: what the call adds at its peak to what is resident, when neither fastvision's nor the C library's
            allocator holds freed pages; None where the operating system does not tell. What a peer keeps for itself
            between calls is not in it.
    """

    page_faults: int
    peak_bytes: int | None


def measure_memory(call: Callable[[], object]) -> Memory:
    """Two calls, to be made after others."""
    before = _minor_faults()
    call()
    faults = _minor_faults() - before
    _return_free_pages()
    resident = _resident.reset_peak()
    call()
    return Memory(faults, None if resident is None else _resident.peak() - resident)


def _minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _return_free_pages() -> None:
    """Fastvision's and glibc's: other C libraries keep what they keep."""
    cpu.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
