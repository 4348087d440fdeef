"""A case of the linear family made concrete: tensors, what is called, and the right answer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastvision.nn
from fastvision.bench.case_task import CaseTask
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read
from fastvision.bench.linear_cases import LinearCase


@dataclass(frozen=True)
class LinearTask(CaseTask):
    """A case with a mode, a thread count, random parameters and tensors of one dtype.

    input is (batch, in_features); grad_output, of training, (batch, out_features).
    """

    case: LinearCase
    mode: Mode
    threads: int
    module: nn.Linear
    input: Tensor
    grad_output: Tensor

    @classmethod
    def random(
        cls, case: LinearCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "LinearTask":
        """Normally distributed tensors, parameters of stock's own scale."""
        generator = torch.Generator().manual_seed(seed)
        module = nn.utils.skip_init(nn.Linear, case.in_features, case.out_features, dtype=dtype)
        for parameter in module.requires_grad_(False).parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(-1, 1, generator=generator) / case.in_features**0.5)
        input, grad_output = (
            torch.randn(case.batch, features, generator=generator).to(dtype)
            for features in (case.in_features, case.out_features)
        )
        return cls(case, mode, threads, module, input, grad_output)

    @property
    def reads(self) -> tuple[Read, ...]:
        """The weights that one call reads, and the gradients of them that it writes."""
        return self.case.reads(self.mode, self.dtype.itemsize)

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what one call computes."""
        if self.mode == "infer":
            return ("output",)
        return ("output", *self.gradients)

    def stock_module(self) -> nn.Module:
        """Stock's module with this task's parameters."""
        return self._with_parameters(nn.Linear)

    def fastvision_module(self) -> nn.Module:
        """Fastvision's module with this task's parameters."""
        return self._with_parameters(fastvision.nn.Linear)

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of a module on this task's tensors."""
        return self.call(module, self.input.clone(), self.grad_output)

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64, from the stock module."""
        return self.call(self.stock_module().double(), self.input.double(), self.grad_output.double())()

    def _with_parameters(self, kind: type[nn.Linear]) -> nn.Module:
        module = nn.utils.skip_init(kind, self.case.in_features, self.case.out_features, dtype=self.dtype)
        module.load_state_dict(self.module.state_dict())
        return module.requires_grad_(self.mode == "train")
