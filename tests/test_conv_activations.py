"""Activations other than ReLU: as the operator's, alone and after batch normalisation, and in converted models."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import KERNEL_DTYPES, SAMPLES, STOCKS, Problem, assert_accurate, assert_same_layout, exact, stock
from convert_models import fused_calls, seeded, training_step
from profiled import operators_of
from torch import nn
from torch.testing import assert_close

from fastvision.convert import convert, explain
from fastvision.ops import conv2d_batch_norm_pool2d, conv2d_pool2d, conv2d_pool2d_reference

pytestmark = pytest.mark.usefixtures("one_thread")
FUNCTIONS = {"relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish}
WINOGRAD = Problem(batch=1, channels=48, height=9, width=11, out_channels=80, options={"pool": "none", "padding": 1})
LONG_SUM = Problem(batch=1, channels=150, height=7, width=8, out_channels=37, options={"pool": "none", "stride": 2})
# Some for each kernel. Outputs are large enough to be clamped.
WITHOUT_POOL = {name: problem for name, problem in SAMPLES.items() if problem.options.get("pool") == "none"}
PROBLEMS = WITHOUT_POOL | {"winograd": WINOGRAD, "long sum": LONG_SUM}
by_activation = pytest.mark.parametrize("activation", FUNCTIONS)


def with_options(problem, **options):
    return Problem(**vars(problem) | {"options": problem.options | options})


def times(tensors, factor):
    input, weight, bias = tensors
    return input, weight * factor, None if bias is None else bias * factor


@by_activation
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_agrees_with_float64(capability, problem, activation):
    for dtype in KERNEL_DTYPES:
        for layout in ("contiguous", "channels_last"):
            one = with_options(Problem(**vars(problem) | {"dtype": dtype, "layout": layout}), activation=activation)
            tensors = times(one.tensors(), 4)
            output = conv2d_pool2d(*tensors, **one.options)
            # Of 16 bits, the sum is rounded before the activation, as stock's is.
            assert_accurate(output, exact(one, tensors), scale=12)
            assert_same_layout(output, stock(*tensors, **one.options))


@by_activation
def test_the_kernel_runs(capability, activation):
    """Otherwise these tests would compare stock with itself."""
    for name, problem in PROBLEMS.items():
        if name in STOCKS.get(capability, ()):
            continue
        one = with_options(problem, activation=activation)
        operators = operators_of(lambda one=one: conv2d_pool2d(*one.tensors(), **one.options))
        by_stock = {f"aten::{activation}", f"aten::{activation}_"} & operators
        assert bool(by_stock) == (capability == "emulated")


@by_activation
@pytest.mark.parametrize("name", ["pointwise", "depthwise", "few_outputs", "no_pool", "one_pixel", "winograd"])
def test_special_values(capability, name, activation):
    """A sum that is the bias: infinities, not-a-numbers, and numbers whose exponential has no room."""
    specials = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 89.0, -89.0, -104.0, 6.0, -3.0, 3.0, 0.0, -1e-30]
    problem = with_options(PROBLEMS[name], activation=activation)
    input, weight, bias = problem.tensors()
    bias = torch.tensor(specials).repeat(len(bias) // len(specials) + 1)[: len(bias)]
    output = conv2d_pool2d(input * 0, weight, bias, **problem.options)
    expected = FUNCTIONS[activation](bias).view(-1, 1, 1).expand(output.shape[1:])
    for image in output:
        assert_close(image, expected, rtol=1e-6, atol=1e-30, equal_nan=True)


@by_activation
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_a_pool_after_it(capability, pool, activation):
    problem = Problem(options={"activation": activation, "pool": pool})
    tensors = problem.tensors()
    assert torch.equal(conv2d_pool2d(*tensors, **problem.options), stock(*tensors, **problem.options))


@by_activation
@pytest.mark.parametrize("pool", ["none", "max"])
def test_gradients(capability, pool, activation):
    options = {"activation": activation, "pool": pool}
    tensors = [t.double().requires_grad_() for t in Problem(batch=1, height=5, width=5, out_channels=2).tensors()]
    assert torch.autograd.gradcheck(lambda *t: conv2d_pool2d(*t, **options), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: conv2d_pool2d(*t, **options), tensors)
    ours, stocks = ([t.float().detach().requires_grad_() for t in tensors] for _ in range(2))
    conv2d_pool2d(*ours, **options).square().sum().backward()
    stock(*stocks, **options).square().sum().backward()
    assert_close([t.grad for t in ours], [t.grad for t in stocks])


@by_activation
def test_opcheck_and_reference(capability, activation):
    problem = Problem(height=5, width=6, options={"activation": activation, "pool": "none"})
    tensors = [t.requires_grad_() for t in problem.tensors()]
    torch.library.opcheck(torch.ops.fastvision.conv2d_pool2d.default, tuple(tensors), problem.options)
    assert torch.equal(conv2d_pool2d_reference(*tensors, **problem.options), stock(*tensors, **problem.options))


@by_activation
def test_after_batch_normalisation(capability, activation):
    for problem in PROBLEMS.values():
        one = with_options(problem, activation=activation)
        tensors, channels = one.tensors(), one.out_channels
        norm = [torch.randn(channels), torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(channels)]
        without = one.options | {"activation": "none"}
        expected = FUNCTIONS[activation](F.batch_norm(stock(*tensors, **without).double(), *(n.double() for n in norm)))
        assert_accurate(conv2d_batch_norm_pool2d(*tensors, *norm, **one.options), expected, scale=8)


def test_two_threads_give_the_same_result(intraop_threads):
    for problem in PROBLEMS.values():
        one = with_options(problem, activation="silu")
        tensors = one.tensors()
        results = []
        for threads in (1, 2):
            intraop_threads(threads)
            results.append(conv2d_pool2d(*tensors, **one.options))
        assert torch.equal(*results)


def test_unknown_activations_are_refused():
    with pytest.raises(RuntimeError, match="activation: expected 'none', 'relu', 'relu6', 'silu' or 'hardswish'"):
        conv2d_pool2d(*Problem().tensors(), activation="gelu")


class ByFunctions(nn.Module):
    """One activation of each kind, as functions; a clamp with other bounds than ReLU6's stays."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(6))
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        a, b, c, d, e, f = self.convolutions
        x = F.relu6(a(x), inplace=True)
        x = F.silu(self.norm(b(x)))
        x = F.hardtanh(c(x), 0.0, 6.0)
        x = F.hardswish(d(x), True)
        x = F.hardtanh(e(x))
        return F.max_pool2d(F.silu(f(x)), 2)


MODELS = {
    "relu6": lambda: nn.Sequential(nn.Conv2d(16, 20, 1), nn.BatchNorm2d(20), nn.ReLU6(inplace=True)),
    "silu": lambda: nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.Identity(), nn.SiLU()),
    "hardswish": lambda: nn.Sequential(nn.Conv2d(16, 20, 3), nn.Hardswish()),
    "pool behind it": lambda: nn.Sequential(nn.Conv2d(16, 20, 3), nn.SiLU(), nn.MaxPool2d(2)),
    "functions": ByFunctions,
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_converted_models(build):
    model, input = seeded(build), torch.randn(2, 16, 12, 12)
    converted = convert(model)
    for mode in (True, False):
        for module in (converted, model):
            module.train(mode)
        assert_close(*(training_step(module, input) for module in (converted, model)), rtol=1e-4, atol=1e-4)
    for clone in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        with torch.no_grad():
            operators = operators_of(lambda clone=clone: clone(input))
            assert_close(clone(input), model(input), rtol=1e-4, atol=1e-4)
        assert not operators & {"aten::relu6", "aten::silu", "aten::hardswish"}
    assert fused_calls(converted, input) > 0


def test_explain():
    rows = explain(MODELS["pool behind it"]().eval()).rows
    assert [(row.name, row.status) for row in rows] == [("0 to 1", "replaceable"), ("2", "replaceable")]
    assert rows[0].reason == "one conv2d_pool2d(activation='silu', pool='none')"
    rows = [row for row in explain(ByFunctions().eval()).rows if row.layers[0] == "Conv2d"]
    lasts = [row.name.split(" to ")[-1] for row in rows]
    assert lasts == ["relu6()", "silu()", "hardtanh()", "hardswish()", "convolutions.4", "silu()"]


def test_bounds_that_are_changed():
    model = convert(MODELS["relu6"]()).eval()
    input = 40 * torch.randn(2, 16, 12, 12)
    with torch.no_grad():
        assert model(input).max() == 6
        model[2].max_val = 1.0
        assert model(input).max() == 1
    assert "has bounds of its own" in str(explain(model))


def test_compiled_by_the_backend():
    model, input = ByFunctions().eval(), torch.randn(2, 16, 12, 12)
    with torch.no_grad():
        compiled = torch.compile(model, backend="fastvision", fullgraph=True)
        assert_close(compiled(input), model(input), rtol=1e-4, atol=1e-4)
        operators = operators_of(lambda: compiled(input))
    torch._dynamo.reset()
    assert operators & {"fastvision::conv2d_pool2d", "fastvision::conv2d_batch_norm_pool2d"}
    assert not operators & {"aten::relu6", "aten::hardswish"}
