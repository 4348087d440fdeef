"""What tasks of every family have in common."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastvision.bench.checking import as_tensors
from fastvision.bench.limits import Read


class CaseTask:
    """A case made concrete: a base of dataclasses with a case, its mode and an input, or else their own `inputs`.

    Where there is a `module`, `gradients` are those of its training step.
    """

    @property
    def name(self) -> str:
        """The case's name."""
        return self.case.name

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors and parameters."""
        return self.inputs[0].dtype

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the module is called on."""
        return (self.input,)

    @property
    def memory_format(self) -> torch.memory_format:
        """In which peers have images and weights unless they have a format of their own."""
        return torch.contiguous_format

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return self.case.flops(self.mode)

    @property
    def reads(self) -> tuple[Read, ...]:
        """What one call has to read and write; empty where its time is not the limit, or not known."""
        return ()

    @property
    def gradients(self) -> tuple[str, ...]:
        """Names of those that a training step computes: of the input and of the module's parameters."""
        return ("grad_input", *(f"grad_{name}" for name, _ in self.module.named_parameters()))

    def as_results(self, returned: object) -> tuple[Tensor, ...]:
        """What a peer's call returned, in the shapes of the reference."""
        return as_tensors(returned)

    def call(self, module: nn.Module, input: Tensor, grad_output: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        """The module on an input; in training also the gradients of the input and of the module's parameters."""
        if self.mode == "infer":
            return lambda: (module(input),)
        leaves = [input.requires_grad_(), *module.parameters()]

        def step() -> tuple[Tensor, ...]:
            output = module(input)
            return (output, *torch.autograd.grad(output, leaves, grad_output))

        return step
