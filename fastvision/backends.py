"""Switches in the style of torch.backends.

`cpu.capability` is the instruction set in use ('avx512', 'avx2', 'default'). Assigning another one that the
processor has switches all operators over; the environment variable FASTVISION_CPU_CAPABILITY sets it at start.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fastvision._native import _C


class _CPU:
    """fastvision.backends.cpu"""

    @property
    def capability(self) -> str:
        """Instruction set that CPU tensors run on."""
        return _C.cpu_capability()

    @capability.setter
    def capability(self, name: str) -> None:
        _C.set_cpu_capability(name)

    @property
    def allow_winograd(self) -> bool:
        """Whether convolutions may run by Winograd's algorithm: faster, with up to 2.3 times stock's rounding error.

        It also spreads a NaN or infinity of the input to outputs next to those it belongs to. Holds for all threads.
        """
        return _C.winograd_allowed()

    @allow_winograd.setter
    def allow_winograd(self, value: bool) -> None:
        _C.set_winograd_allowed(value)

    @property
    def max_cached_bytes(self) -> int:
        """How much memory of freed results and workspace is kept for the next call, in bytes; 0 keeps none.

        At start a sixteenth of the memory that the machine or the container has, 1 GiB at most. Blocks under 128 KiB
        are the C library's.
        """
        return _C.max_cached_bytes()

    @max_cached_bytes.setter
    def max_cached_bytes(self, value: int) -> None:
        if value < 0:
            raise ValueError(f"max_cached_bytes: expected 0 or more, got {value}")
        _C.set_max_cached_bytes(value)

    @property
    def cached_bytes(self) -> int:
        """How much is kept now. What a thousand allocations of such blocks had no use for is given back."""
        return _C.cached_bytes()

    @staticmethod
    def empty_cache() -> None:
        """Gives all that is kept back to the C library, as torch.cuda.empty_cache does on a GPU."""
        _C.empty_cache()

    @staticmethod
    def available_capabilities() -> list[str]:
        """What `capability` may be set to on this processor, the widest first."""
        return _C.available_cpu_capabilities()


class _CUDA:
    """fastvision.backends.cuda"""

    @staticmethod
    def is_available() -> bool:
        """Whether CUDA tensors run fastvision's kernels, rather than the references."""
        return _C.has_cuda_kernels()


cpu = _CPU()
cuda = _CUDA()


@contextmanager
def enabled(value: bool) -> Iterator[None]:
    """Within the context, `enabled(False)` makes every operator run its reference, in all threads.

    A graph compiled within the context keeps the choice.
    """
    before = _C.kernels_enabled()
    _C.set_kernels_enabled(value)
    try:
        yield
    finally:
        _C.set_kernels_enabled(before)


__all__ = ["cpu", "cuda", "enabled"]
