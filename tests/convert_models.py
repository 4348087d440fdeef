"""Models and instruments that the tests of fastvision.convert share."""

from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastvision._calls import sequence
from fastvision.convert import direct

_OPS = torch.ops.fastvision
FUSED = tuple(
    operator.default
    for operator in (_OPS.conv2d_pool2d, _OPS.conv2d_pool2d_with_selection, _OPS.conv2d_batch_norm_pool2d)
)


class OperatorCounter(TorchDispatchMode):
    """The operators that are called, in order, and how many of them are fused."""

    def __enter__(self):
        self.called = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.called.append(function)
        return function(*args, **(kwargs or {}))

    @property
    def fused(self):
        return sum(function in FUSED for function in self.called)


def fused_calls(model, input):
    """How many calls of the fused operator one forward makes."""
    with torch.no_grad(), OperatorCounter() as counter:
        model(input)
    return counter.fused


def modules_called(model, input):
    """The modules that are called as modules in one forward, in the order in which the calls begin."""
    called, stock = [], nn.Module.__call__
    with mock.patch.object(nn.Module, "__call__", lambda self, *given: called.append(self) or stock(self, *given)):
        model(input)
    return called


@contextmanager
def native_sequences():
    """How many operators each native sequence has that is made meanwhile."""
    lengths = []
    with mock.patch.object(direct, "sequence", lambda steps: lengths.append(len(steps)) or sequence(steps)):
        yield lengths


def operators_called(model, input):
    """The operators that one forward calls in inference, in order."""
    with torch.inference_mode(), OperatorCounter() as counter:
        model(input)
    return counter.called


def tensors(output):
    """All tensors in it."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def training_step(model, *arguments):
    """Outputs, gradients (of floating point arguments, too) and buffers."""
    torch.manual_seed(3)
    arguments = [
        value.clone().requires_grad_() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for value in arguments
    ]
    outputs = tensors(model(*arguments))
    loss = sum(output.square().mean() for output in outputs)
    leaves = [value for value in tensors(arguments) if value.requires_grad]
    gradients = torch.autograd.grad(loss, [*leaves, *model.parameters()])
    return [*outputs, *gradients, *(buffer.clone() for buffer in model.buffers())]


def seeded(build, seed=1):
    """A model with reproducible weights, and statistics in its BatchNorm2d layers that are not the identity."""
    torch.manual_seed(seed)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5)
    return model


class Net(nn.Module):
    """Sequentials inside Sequentials inside a module with a forward of its own."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.features = nn.Sequential(block, nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 3 * 3, 5))
        self.stem = nn.Conv2d(3, 3, 1)

    def forward(self, input):
        return self.head(self.features(self.stem(input)))


def conv_norm_relu_pool():
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)))
