"""A case of the models family made concrete: a network with parameters, images, what is called, the right answer."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvision
from fastvision.bench.case_task import CaseTask
from fastvision.bench.checking import as_tensors
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read
from fastvision.bench.model_cases import ModelCase


@dataclass(frozen=True)
class ModelTask(CaseTask):
    """A case with a mode, a thread count, random parameters and images.

    Inference is the network in eval mode with a softmax behind it. Training is forward pass, cross-entropy loss and
    gradients of all parameters; its dropout drops nothing, since what it drops at random could not be compared.

    network holds the parameters, input is (batch, channels, height, width), labels (batch); network and input are
    contiguous and of the task's dtype.
    """

    case: ModelCase
    mode: Mode
    threads: int
    network: nn.Sequential
    input: Tensor
    labels: Tensor

    @classmethod
    def random(
        cls, case: ModelCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "ModelTask":
        """Normally distributed, parameters scaled so that every layer's output is of order one."""
        generator = torch.Generator().manual_seed(seed)
        with torch.device("meta"):  # stock's own initialisation takes seconds, and is not wanted
            network = case.build()
        network = network.to_empty(device="cpu")
        _initialise(network, generator)
        if mode == "infer":
            network = nn.Sequential(*network, nn.Softmax(-1)).eval()
        else:
            _drop_nothing(network)
        return cls(
            case,
            mode,
            threads,
            network=network.to(dtype).requires_grad_(mode == "train"),
            input=torch.randn(case.input_shape, generator=generator).to(dtype),
            labels=torch.randint(case.classes, (case.batch,), generator=generator),
        )

    @property
    def reads(self) -> tuple[Read, ...]:
        """Images and parameters; in training their gradients, and the parameters again. Activations are not counted."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters()) * self.dtype.itemsize
        images = self.input.numel() * self.dtype.itemsize
        if self.mode == "infer":
            return (Read(images + parameters, 1, images + parameters),)
        once = images + 2 * parameters
        return (Read(once, 1, once), Read(parameters, 1, once))

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what one call computes."""
        if self.mode == "infer":
            return ("output",)
        return ("output", *(f"grad_{name}" for name, _ in self.network.named_parameters()))

    def stock_module(self) -> nn.Module:
        """The network with its stock layers."""
        return copy.deepcopy(self.network)

    def fastvision_module(self) -> nn.Module:
        """The network converted."""
        return fastvision.convert(self.network)

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of the network, module and images in memory_format."""
        return self._call(module.to(memory_format=memory_format), self.input.clone(memory_format=memory_format))

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64, from the stock layers."""
        with torch.inference_mode(self.mode == "infer"):
            return as_tensors(self._call(self.stock_module().double(), self.input.double())())

    def _call(self, module: nn.Module, input: Tensor) -> Callable[[], object]:
        if self.mode == "infer":
            return partial(module, input)
        parameters = list(module.parameters())

        def step() -> tuple[Tensor, ...]:
            output = module(input)
            return (output, *torch.autograd.grad(F.cross_entropy(output, self.labels), parameters))

        return step


@torch.no_grad()
def _initialise(network: nn.Sequential, generator: torch.Generator) -> None:
    """He's scale: with stock's, signals fade from layer to layer, and with them the errors that are looked for."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)
        elif parameter.dim() == 1:  # of batch normalisation, as are the buffers
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
        else:
            buffer.zero_()


def _drop_nothing(network: nn.Sequential) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
