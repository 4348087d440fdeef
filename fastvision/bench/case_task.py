"""What tasks of every family have in common."""

import torch


class CaseTask:
    """A case made concrete: a base of dataclasses with a case, its mode and an input."""

    @property
    def name(self) -> str:
        """The case's name."""
        return self.case.name

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors and parameters."""
        return self.input.dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """In which peers have images and weights unless they have a format of their own."""
        return torch.contiguous_format

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return self.case.flops(self.mode)
