"""A case of the rnn family made concrete: tensors, what is called, and the right answer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fastvision.bench.case_task import CaseTask
from fastvision.bench.checking import as_tensors
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read
from fastvision.bench.rnn_cases import RnnCase


@dataclass(frozen=True)
class RnnTask(CaseTask):
    """A case with a mode, a thread count, random parameters and tensors.

    module holds the parameters. input is (steps, batch, input_size), (batch, input_size) for cells, which begin with
    states of (batch, hidden_size); sequences begin with none. grad_output is the gradient of what the module returns
    first, dense also where that is packed. All are of the task's dtype.
    """

    case: RnnCase
    mode: Mode
    threads: int
    module: nn.Module
    input: Tensor
    states: tuple[Tensor, ...]
    grad_output: Tensor

    @classmethod
    def random(
        cls, case: RnnCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "RnnTask":
        """Normally distributed tensors, parameters of stock's own scale."""
        generator = torch.Generator().manual_seed(seed)
        with torch.device("meta"):
            module = case.stock_module(dtype)
        module = module.to_empty(device="cpu").requires_grad_(mode == "train")
        for parameter in module.parameters():
            drawn = torch.empty(parameter.shape).uniform_(-1, 1, generator=generator)
            parameter.data.copy_(drawn / case.hidden_size**0.5)
        leading = (case.batch,) if case.is_cell else (case.steps, case.batch)
        rows = leading if case.shortest is None else (sum(case.lengths),)
        states = (2 if case.has_cell_state else 1) if case.is_cell else 0
        return cls(
            case,
            mode,
            threads,
            module=module,
            input=torch.randn(*leading, case.input_size, generator=generator).to(dtype),
            states=tuple(
                torch.randn(case.batch, case.hidden_size, generator=generator).to(dtype) for _ in range(states)
            ),
            grad_output=torch.randn(*rows, case.hidden_size, generator=generator).to(dtype),
        )

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The input; with a cell its states, with packed sequences, which are padded here, their lengths (int32)."""
        if self.case.shortest is None:
            return (self.input, *self.states)
        return (self.input, torch.tensor(self.case.lengths, dtype=torch.int32))

    @property
    def reads(self) -> tuple[Read, ...]:
        """The weights that one call reads."""
        return self.case.reads(self.mode, self.dtype.itemsize)

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what one call computes."""
        states = ("final_cell",) if self.case.has_cell_state else ()
        if not self.case.is_cell:
            states = ("final_hidden", *states)
        if self.mode == "infer":
            return ("output", *states)
        return ("output", *self.gradients)

    def stock_module(self) -> nn.Module:
        """Stock's module with this task's parameters."""
        return self._with_parameters(self.case.stock_module(self.dtype))

    def fastvision_module(self) -> nn.Module:
        """Fastvision's module with this task's parameters."""
        return self._with_parameters(self.case.fastvision_module(self.dtype))

    def _with_parameters(self, module: nn.Module) -> nn.Module:
        module.load_state_dict(self.module.state_dict())
        return module.requires_grad_(self.mode == "train")

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of a module on this task's tensors."""
        return self._call(module, self.input.clone(), self.states, self.grad_output)

    def as_results(self, returned: object) -> tuple[Tensor, ...]:
        """What a peer's call returned, in the shapes of the reference.

        ONNX's operators return an axis more than torch.nn's modules, of steps for cells and of directions for
        sequences, and what was padded stays padded.
        """
        results = as_tensors(returned)
        if self.case.is_cell:
            return tuple(result.squeeze(0) if result.ndim == 3 else result for result in results)
        output, *others = results
        if output.ndim == 4:
            output = output.squeeze(1)
        if self.case.shortest is not None and output.ndim == 3:
            output = pack_padded_sequence(output, self.inputs[1]).data
        return (output, *others)

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64, from the stock module."""
        with torch.inference_mode(self.mode == "infer"):
            states = tuple(state.double() for state in self.states)
            module = self.stock_module().double()
            return as_tensors(self._call(module, self.input.double(), states, self.grad_output.double())())

    def _call(
        self, module: nn.Module, input: Tensor, states: tuple[Tensor, ...], grad_output: Tensor
    ) -> Callable[[], tuple[Tensor, ...]]:
        is_training = self.mode == "train"
        input.requires_grad_(is_training)
        lengths = None if self.case.shortest is None else torch.tensor(self.case.lengths)
        argument = input if lengths is None else pack_padded_sequence(input, lengths)
        arguments = (argument, states if len(states) > 1 else states[0]) if states else (argument,)
        leaves = [input, *module.parameters()]

        def forward() -> tuple[Tensor, ...]:
            returned = module(*arguments)
            if isinstance(returned, Tensor):
                return (returned,)
            output, state = returned
            first = output.data if isinstance(output, PackedSequence) else output
            return (first, *state) if isinstance(state, tuple) else (first, state)

        def step() -> tuple[Tensor, ...]:
            output = forward()[0]
            return (output, *torch.autograd.grad(output, leaves, grad_output, retain_graph=lengths is not None))

        return step if is_training else forward
