"""A case of the pool family made concrete: tensors, what is called, and the right answer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastvision.nn
from fastvision.bench.case_task import CaseTask
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read
from fastvision.bench.pool_cases import PoolCase


@dataclass(frozen=True)
class PoolTask(CaseTask):
    """A case with a mode, a thread count, and random tensors of one dtype.

    input is (batch, channels, size, size); grad_output, of training, has the result's shape.
    """

    case: PoolCase
    mode: Mode
    threads: int
    input: Tensor
    grad_output: Tensor

    @classmethod
    def random(
        cls, case: PoolCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "PoolTask":
        """Normally distributed tensors."""
        generator = torch.Generator().manual_seed(seed)
        input, grad_output = (
            torch.randn(case.batch, case.channels, size, size, generator=generator).to(dtype)
            for size in (case.size, case.out_size)
        )
        return cls(case, mode, threads, input, grad_output)

    @property
    def flops(self) -> int:
        """None to speak of: a sum or a maximum reads far more than it computes."""
        return 0

    @property
    def reads(self) -> tuple[Read, ...]:
        """What one call reads and writes."""
        return self.case.reads(self.mode, self.dtype.itemsize)

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what one call computes."""
        return ("output",) if self.mode == "infer" else ("output", "grad_input")

    def stock_module(self) -> nn.Module:
        """Stock's module."""
        return self.case.module(nn)

    def fastvision_module(self) -> nn.Module:
        """Fastvision's module."""
        return self.case.module(fastvision.nn)

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of a module on this task's tensors, in memory_format."""
        return self.call(module, *(t.clone(memory_format=memory_format) for t in (self.input, self.grad_output)))

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64, from the stock module."""
        return self.call(self.stock_module(), self.input.double(), self.grad_output.double())()
