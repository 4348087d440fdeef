"""A case of the conv family made concrete: tensors, what is called, and the right answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fastvision.bench.case_task import CaseTask
from fastvision.bench.checking import as_tensors
from fastvision.bench.conv_cases import ConvCase, Mode
from fastvision.bench.limits import Read
from fastvision.ops import conv2d_pool2d_reference


@dataclass(frozen=True)
class ConvTask(CaseTask):
    """A case with a mode, a dtype, a thread count and random tensors.

    input is (batch, in_channels, size, size), weight the case's weight_shape, bias (out_channels), grad_output
    (batch, out_channels, out_size, out_size); all contiguous and of the task's dtype.
    """

    case: ConvCase
    mode: Mode
    threads: int
    input: Tensor
    weight: Tensor
    bias: Tensor
    grad_output: Tensor

    @classmethod
    def random(
        cls, case: ConvCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "ConvTask":
        """Normally distributed tensors, the weight scaled so that the convolution's output is of order one."""
        generator = torch.Generator().manual_seed(seed)
        image, fan_in = (case.size, case.size), math.prod(case.weight_shape[1:])
        output_shape = (case.batch, case.out_channels, case.out_size, case.out_size)
        return cls(
            case,
            mode,
            threads,
            input=torch.randn(case.batch, case.in_channels, *image, generator=generator).to(dtype),
            weight=torch.randn(case.weight_shape, generator=generator).div_(fan_in**0.5).to(dtype),
            bias=torch.randn(case.out_channels, generator=generator).to(dtype),
            grad_output=torch.randn(output_shape, generator=generator).to(dtype),
        )

    @property
    def reads(self) -> tuple[Read, ...]:
        """The tensors that one call has to read or write."""
        return self.case.reads(self.mode, self.dtype.itemsize)

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what one call computes."""
        if self.mode == "infer":
            return ("output",)
        gradients = ("grad_weight", "grad_bias")
        return ("output", *gradients) if self.case.input_is_image else ("output", *gradients, "grad_input")

    @property
    def memory_format(self) -> torch.memory_format:
        """In which peers have images and weights unless they have a format of their own."""
        return self.case.memory_format

    def stock_module(self) -> nn.Module:
        """The stock layers with this task's weight and bias."""
        return self._with_parameters(self.case.stock_module(self.dtype))

    def fastvision_module(self) -> nn.Module:
        """Fastvision's module with this task's weight and bias."""
        return self._with_parameters(self.case.fastvision_module(self.dtype))

    def _with_parameters(self, module: nn.Module) -> nn.Module:
        for parameter, value in zip(module.parameters(), (self.weight, self.bias), strict=True):
            parameter.data.copy_(value)
        return module

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of a module on this task's tensors, module and tensors in memory_format."""
        module = module.to(memory_format=memory_format)
        input = self.input.clone(memory_format=memory_format)
        grad_output = self.grad_output.clone(memory_format=memory_format)
        return self._call(module, list(module.parameters()), input, grad_output)

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64, from the operator's reference."""
        case = self.case
        weight, bias = self.weight.double().requires_grad_(), self.bias.double().requires_grad_()
        forward = partial(
            conv2d_pool2d_reference,
            weight=weight,
            bias=bias,
            stride=case.stride,
            padding=case.padding,
            groups=case.groups,
            pool=case.pool,
            pool_kernel_size=case.pool_kernel_size,
            pool_stride=case.pool_stride,
            pool_padding=case.pool_padding,
        )
        call = self._call(forward, [weight, bias], self.input.double(), self.grad_output.double())
        with torch.inference_mode(self.mode == "infer"):
            return as_tensors(call())

    def _call(
        self, forward: Callable[[Tensor], Tensor], parameters: list[Tensor], input: Tensor, grad_output: Tensor
    ) -> Callable[[], object]:
        if self.mode == "infer":
            return partial(forward, input)
        leaves = parameters if self.case.input_is_image else [*parameters, input.requires_grad_()]

        def step() -> tuple[Tensor, ...]:
            output = forward(input)
            return (output, *torch.autograd.grad(output, leaves, grad_output))

        return step
