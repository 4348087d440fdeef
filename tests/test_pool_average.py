"""fastvision.ops.avg_pool2d against float64 and stock; fastvision.nn.AvgPool2d as a drop-in."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pools import SHAPES, WINDOWS, assert_trains_and_follows
from profiled import operators_of
from torch import nn

import fastvision
from fastvision.convert import Row
from fastvision.ops import avg_pool2d, avg_pool2d_reference

OPERATOR = torch.ops.fastvision.avg_pool2d.default
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# Every test runs on each instruction set.
pytestmark = pytest.mark.usefixtures("one_thread", "capability")


def images(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_as_stock(input, *arguments):
    rtol = TOLERANCES.get(input.dtype, 0)
    # Sums cancel, and are not divided by their number where a divisor is given: what is rounded is as large as this.
    magnitudes = F.avg_pool2d(input.double().abs(), *arguments).abs()
    atol = rtol * magnitudes[magnitudes.isfinite()].max().item()
    actual, expected = avg_pool2d(input, *arguments), F.avg_pool2d(input, *arguments)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True, check_stride=True)
    if input.dtype in TOLERANCES:
        exact = F.avg_pool2d(input.double(), *arguments)
        torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_agrees_with_stock(window, dtype):
    for shape in SHAPES:
        for options in ((False, True), (True, True), (True, False), (False, True, 5), (True, False, -2)):
            assert_as_stock(images(*shape, dtype=dtype), *window, *options)


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
@pytest.mark.parametrize("window", [(3, 1, 1), (2, 2, 0), (3, 2, 1), (5, 2, 2), (3, 3, 1)])
def test_special_values(special, window):
    for seed, width in enumerate((3, 12, 40)):
        input = images(2, 2, 13, width, seed=seed)
        input[torch.rand(input.shape, generator=torch.Generator().manual_seed(seed)) < 0.05] = special
        assert_as_stock(input, *window)


@given(data=st.data())
def test_any_window(data):
    kernel = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    stride = data.draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    padding = tuple(data.draw(st.integers(0, size // 2)) for size in kernel)
    sizes = [data.draw(st.integers(max(1, size - 2 * pad), 40)) for size, pad in zip(kernel, padding, strict=True)]
    input = images(data.draw(st.integers(1, 3)), *sizes, dtype=data.draw(st.sampled_from([*TOLERANCES])))
    divisor = data.draw(st.one_of(st.none(), st.integers(1, 9)))
    assert_as_stock(input, kernel, stride, padding, data.draw(st.booleans()), data.draw(st.booleans()), divisor)


@pytest.mark.usefixtures("not_emulated")
def test_the_kernel_runs():
    """Otherwise these tests would compare stock with itself."""
    input = images(2, 3, 8, 8)
    assert operators_of(lambda: avg_pool2d(input, 3, 2, 1)) == {"fastvision::avg_pool2d"}
    with fastvision.backends.enabled(False):
        assert "aten::avg_pool2d" in operators_of(lambda: avg_pool2d(input, 3, 2, 1))


STOCKS = {
    "float64": (images(2, 3, 8, 8).double(), 2),
    "channels_last": (images(2, 3, 8, 8).to(memory_format=torch.channels_last), 2),
    "columns apart": (images(2, 3, 8, 16)[..., ::2], 2),
    "transposed": (images(2, 3, 8, 9).mT, 2),
    "empty batch": (images(0, 3, 8, 8), 2),
    "with gradients": (images(2, 3, 8, 8).requires_grad_(), 2),
}


@pytest.mark.parametrize("arguments", STOCKS.values(), ids=STOCKS)
def test_what_no_kernel_serves_is_stocks(arguments):
    assert "aten::avg_pool2d" in operators_of(lambda: avg_pool2d(*arguments))
    actual, expected = avg_pool2d(*arguments), F.avg_pool2d(*arguments)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, check_stride=True)
    assert actual.requires_grad == expected.requires_grad


REFUSED = {
    "dimensions": (images(8, 8), 2),
    "kernel of zero": (images(1, 1, 8, 8), 0),
    "stride of zero": (images(1, 1, 8, 8), 2, 0),
    "padding": (images(1, 1, 8, 8), 2, 2, 2),
    "negative padding": (images(1, 1, 8, 8), 2, 2, -1),
    "too small": (images(1, 1, 2, 2), 3),
    "three sizes": (images(1, 1, 8, 8), (2, 2, 2)),
    "divisor of zero": (images(1, 1, 8, 8), 2, 2, 0, False, True, 0),
    "integers": (torch.ones(1, 1, 8, 8, dtype=torch.int32), 2),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_what_stock_refuses_is_refused(arguments):
    with pytest.raises((RuntimeError, IndexError)) as stock:
        F.avg_pool2d(*arguments)
    for pool in (avg_pool2d, avg_pool2d_reference):
        with pytest.raises(stock.type) as ours:
            pool(*arguments)
        assert str(ours.value) == str(stock.value)


def test_two_threads_give_the_same_result(intraop_threads):
    input = images(1, 300, 28, 28)
    one = avg_pool2d(input, 3, 1, 1)
    intraop_threads(2)
    assert torch.equal(avg_pool2d(input, 3, 1, 1), one)


def test_gradients_transforms_and_autocast():
    input = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: avg_pool2d(x, 3, 2, 1), [input])
    assert torch.autograd.gradgradcheck(lambda x: avg_pool2d(x, 3, 2, 1), [input])
    input, tangent = torch.randn(2, 3, 2, 8, 8)
    assert torch.equal(torch.vmap(lambda x: avg_pool2d(x, 3, 1, 1))(input), F.avg_pool2d(input, 3, 1, 1))
    ours, stock = (torch.func.jvp(lambda x, f=f: f(x, 2), (input,), (tangent,)) for f in (avg_pool2d, F.avg_pool2d))
    torch.testing.assert_close(ours, stock)
    with torch.autocast("cpu", torch.bfloat16):
        assert avg_pool2d(input, 2).dtype == F.avg_pool2d(input, 2).dtype


@pytest.mark.parametrize("grad", [True, False])
def test_opcheck(grad):
    for input, window in ((torch.randn(2, 3, 9, 8), (3, 2, 1)), (torch.randn(3, 9, 8), (2,))):
        torch.library.opcheck(OPERATOR, (input.requires_grad_(grad), *([n, n] for n in window)))


MODULES = {
    "usual": {"kernel_size": 3, "stride": 2, "padding": 1},
    "by axis": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0), "ceil_mode": True},
    "inside": {"kernel_size": 3, "padding": 1, "count_include_pad": False},
    "divisor": {"kernel_size": 2, "divisor_override": 3},
    "lists": {"kernel_size": [2, 3], "stride": [1, 1]},
}


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_module_is_stocks(options):
    stock, ours, input = nn.AvgPool2d(**options), fastvision.nn.AvgPool2d(**options), images(2, 3, 12, 13)
    for _ in range(2):  # the second call is prepared
        for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            torch.testing.assert_close(module(input), stock(input))
            assert str(module) == str(stock)
    stock.kernel_size = ours.kernel_size = 4
    stock.padding = ours.padding = 2
    torch.testing.assert_close(ours(input), stock(input))
    ours.kernel_size = "3"
    with pytest.raises(TypeError):
        ours(input)


def test_a_recorded_module_is_stocks():
    module, input = fastvision.nn.AvgPool2d(3, 2).eval(), images(2, 3, 12, 13)
    program = torch.export.export(module, (input,))
    assert torch.ops.aten.avg_pool2d.default in {node.target for node in program.graph.nodes}
    torch.testing.assert_close(torch.jit.trace(module, input)(input), F.avg_pool2d(input, 3, 2))


class Branches(nn.Module):
    """Pools behind no convolution, and one behind: as a module and as functions."""

    def __init__(self):
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(3, 1, 1)

    def forward(self, x):
        fused = F.avg_pool2d(self.convolution(x), 3, stride=1, padding=1)
        return torch.cat([fused, self.pool(x), F.avg_pool2d(x, [3, 3], 1, 1, count_include_pad=False)], 1)


def test_pools_of_a_forward(capability):
    model, input = Branches().eval(), images(2, 3, 9, 9)
    converted = fastvision.convert(model, input)
    call, fused = "calls fastvision.ops.avg_pool2d", "one conv2d_pool2d(activation='none', pool='avg')"
    assert fastvision.explain(converted).rows == (
        Row("(model)", ("avg_pool2d",), "replaced", call),
        Row("convolution to avg_pool2d()", ("Conv2d", "AvgPool2d"), "replaced", fused),
        Row("pool", ("AvgPool2d",), "replaced", call),
    )
    with torch.no_grad():
        operators = operators_of(lambda: converted(input))
        assert {"fastvision::avg_pool2d", "fastvision::conv2d_pool2d"} <= operators
        assert ("aten::avg_pool2d" in operators) == (capability == "emulated")
        torch.testing.assert_close(converted(input), model(input))
    assert_trains_and_follows(converted, model, input)
    assert type(fastvision.revert(converted).pool) is nn.AvgPool2d
    assert converted.pool.__dict__.keys() == model.pool.__dict__.keys()


def test_pools_of_a_sequential():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(2), nn.Tanh(), nn.AvgPool2d(2, divisor_override=3)).eval()
    input = images(1, 3, 24, 24)
    converted = fastvision.convert(model, input)
    assert [(row.name, row.status) for row in fastvision.explain(converted).rows] == [
        ("0 to 1", "replaced"),
        ("2", "not replaced"),
        ("3", "replaced"),
    ]
    assert type(converted[1]) is type(converted[3]) is fastvision.nn.AvgPool2d
    # The class of a converted pool fuses as stock's does.
    run = fastvision.convert(nn.Sequential(nn.Conv2d(3, 8, 3), converted[1]))
    assert "fastvision::avg_pool2d" not in operators_of(lambda: run(input))
    with pytest.raises(RuntimeError, match="expected a module of stock layers"):
        torch.jit.script(fastvision.nn.AvgPool2d(2))
