"""torch.compile(model, backend="fastvision"): what of a captured graph is replaced, and that it computes the same."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from convert_forwards import VGG, Fire, HandWritten, ResNet, TwoUsers
from convert_models import conv_norm_relu_pool, seeded
from torch import nn
from torch.testing import assert_close

from fastvision.convert import convert
from fastvision.convert.backend import fastvision as backend

pytestmark = pytest.mark.usefixtures("one_thread")


class Inner:
    """The backend for the rest: without gradients, or with them by AOTAutograd; counts the operator's calls."""

    def __init__(self, name):
        self.name = name
        self.fused = []

    def __call__(self, graph_module, example_inputs):
        targets = [getattr(node.target, "__name__", "") for node in graph_module.graph.nodes]
        self.fused.append(targets.count("_fused"))
        return torch._dynamo.lookup_backend(self.name)(graph_module, example_inputs)


def compile_with(model, inner, **options):
    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True, options={"inner": inner}, **options)


def random_images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Options(nn.Module):
    """Padding of every kind, groups, dilation; arguments by name."""

    def __init__(self):
        super().__init__()
        self.same = nn.Conv2d(3, 4, 3, padding="same")
        self.reflect = nn.Conv2d(4, 4, 3, 2, 1, groups=2, bias=False, padding_mode="reflect")
        self.weight = nn.Parameter(torch.randn(4, 4, 2, 2))

    def forward(self, x):
        x = F.max_pool2d(self.same(x).relu(), kernel_size=3, stride=2, padding=1, ceil_mode=True)
        x = F.avg_pool2d(self.reflect(x), 2, count_include_pad=False)
        return F.relu(F.conv2d(x, weight=self.weight, dilation=2), inplace=True)


# Each with how many calls of the operator there are in eval and in training mode.
MODELS = {
    "VGG": (VGG, 2, 0),
    "ResNet": (ResNet, 8, 0),
    "Fire": (Fire, 3, 3),
    "HandWritten": (HandWritten, 3, 3),
    "Options": (Options, 3, 3),
    "TwoUsers": (TwoUsers, 0, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_chains_are_replaced(name):
    build, *calls = MODELS[name]
    model, images = seeded(build), random_images(2, 3, 32, 32)
    inner = Inner("eager")
    for mode in (False, True):
        model.train(mode)
        outputs = []
        for function in (compile_with(model, inner), model):
            torch.manual_seed(2)
            outputs.append(function(images))
        assert_close(*outputs, rtol=1e-4, atol=1e-4)
    assert inner.fused == calls


def test_gradients_and_free_sizes():
    model = conv_norm_relu_pool().eval()
    inner = Inner("aot_eager")
    compiled = compile_with(model, inner)
    for batch in (2, 3, 5):
        images = random_images(batch, 3, 8, 8)
        results = []
        for function in (compiled, model):
            output = function(images)
            results.append([output, *torch.autograd.grad(output.square().sum(), list(model.parameters()))])
        assert_close(*results, rtol=1e-4, atol=1e-4)
    assert inner.fused == [1, 1]  # for this batch, and for any


class ComputedNorm(nn.Module):
    """The weights of its normalisation are there only after the convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.conv(x)
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight * 2)


def conv_norm(**options):
    return nn.Sequential(nn.Conv2d(64, 8, 3, padding=1), nn.BatchNorm2d(8, **options)).eval()


NOT_FOLDED = {
    "small images": (conv_norm, 4),
    "half precision": (lambda: conv_norm().bfloat16(), 8),
    "no statistics": (lambda: conv_norm(track_running_stats=False), 8),
    "computed weights": (ComputedNorm, 8),
}


@pytest.mark.parametrize(("build", "size"), NOT_FOLDED.values(), ids=NOT_FOLDED)
def test_batch_norm_that_can_not_be_folded(build, size):
    model, inner = build(), Inner("eager")
    images = random_images(1, 64, size, size).to(next(model.parameters()).dtype)
    assert_close(compile_with(model, inner)(images), model(images))
    assert inner.fused == [0]


def test_a_converted_model():
    model, images = seeded(ResNet).eval(), random_images(2, 3, 32, 32)
    inner = Inner("eager")
    assert_close(compile_with(convert(model), inner)(images), model(images), rtol=1e-4, atol=1e-4)
    assert inner.fused[0] == 7  # the eighth run, of an nn.Sequential, was there before


def test_the_entry_point():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    group = "torch_dynamo_backends"
    ((name, value),) = project["entry-points"][group].items()
    assert name == "fastvision"
    assert EntryPoint(name, value, group).load() is backend


@pytest.mark.slow
def test_inductor_compiles_the_rest():
    torch._dynamo.reset()
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Tanh()), random_images(2, 3, 8, 8)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    results = []
    for function in (compiled, model):
        output = function(images)
        results.append([output, *torch.autograd.grad(output.square().sum(), list(model.parameters()))])
    assert_close(*results, rtol=1e-4, atol=1e-4)
