"""fastvision.ops.max_pool2d, which is exact, against stock; fastvision.nn.MaxPool2d as a drop-in."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from pools import SHAPES, WINDOWS, assert_trains_and_follows
from profiled import operators_of
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import fastvision
from fastvision.convert import Row
from fastvision.ops import max_pool2d, max_pool2d_reference

OPERATOR = torch.ops.fastvision.max_pool2d.default
WITH_INDICES = torch.ops.fastvision.max_pool2d_with_indices.default
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Every test runs on each instruction set.
pytestmark = pytest.mark.usefixtures("one_thread", "capability")


def images(*shape, seed=0, dtype=torch.float32):
    """Of few values, so that windows have several maxima."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True, check_stride=True)


def assert_as_stock(input, *arguments):
    expected = F.max_pool2d(input, *arguments, return_indices=True)
    assert_same(max_pool2d(input, *arguments), expected[0])
    assert_same(max_pool2d(input, *arguments, return_indices=True), expected)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_stock(window, dtype):
    for shape in SHAPES:
        for ceil_mode in (False, True):
            assert_as_stock(images(*shape, dtype=dtype), *window, 1, ceil_mode)


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("window", [(3, 1, 1), (2, 2, 0), (3, 2, 1), (5, 2, 2), (3, 3, 1)])
def test_special_values(special, window):
    """NaN wins, the last one of a window; -inf is a value, padding is none."""
    for share in (0.02, 0.6, 1.0):
        for seed, width in enumerate((3, 12, 40)):
            input = images(2, 2, 13, width, seed=seed)
            input[torch.rand(input.shape, generator=torch.Generator().manual_seed(seed)) < share] = special
            assert_as_stock(input, *window)


@given(data=st.data())
def test_any_window(data):
    kernel = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    stride = data.draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    padding = tuple(data.draw(st.integers(0, size // 2)) for size in kernel)
    # Windows larger than the padded image fit with ceil_mode only.
    sizes = [data.draw(st.integers(max(1, size - 2 * pad), 40)) for size, pad in zip(kernel, padding, strict=True)]
    input = images(data.draw(st.integers(1, 3)), *sizes, dtype=data.draw(st.sampled_from(DTYPES)))
    assert_as_stock(input, kernel, stride, padding, 1, data.draw(st.booleans()))


@pytest.mark.usefixtures("not_emulated")
def test_the_kernels_run():
    """Otherwise these tests would compare stock with itself."""
    input = images(2, 3, 8, 8)
    assert operators_of(lambda: max_pool2d(input, 3, 2, 1)) == {"fastvision::max_pool2d"}
    assert operators_of(lambda: max_pool2d(input, 3, 3)) == {"fastvision::max_pool2d"}
    with_indices = {"fastvision::max_pool2d_with_indices"}
    assert operators_of(lambda: max_pool2d(input, 3, 2, 1, return_indices=True)) == with_indices
    assert "aten::max_pool2d_with_indices" in operators_of(lambda: max_pool2d(input, 3, 3, return_indices=True))
    with fastvision.backends.enabled(False):
        assert "aten::max_pool2d" in operators_of(lambda: max_pool2d(input, 3, 2, 1))


STOCKS = {
    "float64": (images(2, 3, 8, 8).double(), 2),
    "integers": (images(2, 3, 8, 8).int(), 2),
    "channels_last": (images(2, 3, 8, 8).to(memory_format=torch.channels_last), 2),
    "one channel, channels_last": (torch.empty(2, 1, 8, 8, memory_format=torch.channels_last).fill_(1), 2),
    "columns apart": (images(2, 3, 8, 16)[..., ::2], 2),
    "transposed": (images(2, 3, 8, 9).mT, 2),
    "dilation": (images(2, 3, 8, 8), 2, 1, 0, 2),
    "empty batch": (images(0, 3, 8, 8), 2),
    "meta": (torch.empty(2, 3, 8, 8, device="meta"), 2),
    "window beyond the image": (images(1, 1, 3, 3), 5, 4, 0, 1, True),
}


@pytest.mark.parametrize("arguments", STOCKS.values(), ids=STOCKS)
def test_what_no_kernel_serves_is_stocks(arguments):
    assert operators_of(lambda: max_pool2d(*arguments)) & {"aten::max_pool2d"} or arguments[0].is_meta
    assert_as_stock(*arguments)


def test_layouts_of_other_backends():
    input = images(2, 3, 8, 8)
    quantized = torch.quantize_per_tensor(input, 1.0, 0, torch.quint8)
    for actual in (max_pool2d(quantized, 2), fastvision.nn.MaxPool2d(2)(quantized)):
        assert torch.equal(actual.int_repr(), F.max_pool2d(quantized, 2).int_repr())
    assert torch.equal(max_pool2d(input.to_mkldnn(), 2).to_dense(), F.max_pool2d(input, 2))


REFUSED = {
    "dimensions": (images(8, 8), 2),
    "kernel of zero": (images(1, 1, 8, 8), 0),
    "stride of zero": (images(1, 1, 8, 8), 2, 0),
    "padding": (images(1, 1, 8, 8), 2, 2, 2),
    "padding of one axis": (images(1, 1, 8, 8), (4, 2), 1, (2, 2)),
    "negative padding": (images(1, 1, 8, 8), 2, 2, -1),
    "too small": (images(1, 1, 2, 2), 3),
    "no channels": (images(1, 0, 4, 4), 2),
    "three sizes": (images(1, 1, 8, 8), (2, 2, 2)),
    "dilation of zero": (images(1, 1, 8, 8), 2, 2, 0, 0),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_what_stock_refuses_is_refused(arguments):
    for return_indices in (False, True):
        with pytest.raises(RuntimeError) as stock:
            F.max_pool2d(*arguments, return_indices=return_indices)
        for pool in (max_pool2d, max_pool2d_reference):
            with pytest.raises(RuntimeError) as ours:
                pool(*arguments, return_indices=return_indices)
            assert str(ours.value) == str(stock.value)


def test_two_threads_give_the_same_result(intraop_threads):
    intraop_threads(2)
    for shape in ((1, 300, 28, 28), (2, 2, 300, 300)):
        assert_as_stock(images(*shape), 3, 2, 1)


def test_gradients():
    input = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    for arguments in ((3, 1, 1), (2,), (3, 3, 1)):
        assert torch.autograd.gradcheck(lambda x, a=arguments: max_pool2d(x, *a), [input])
        assert torch.autograd.gradgradcheck(lambda x, a=arguments: max_pool2d(x, *a), [input])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [(3, 1, 1), (3, 2, 0), (2, 2, 0), (4, 3, 2)])
def test_gradients_are_stocks(capability, window, dtype):
    input = images(2, 3, 11, 21, dtype=dtype).requires_grad_()
    output = max_pool2d(input, *window)
    expected = F.max_pool2d(input, *window)
    assert (output.grad_fn.name() == expected.grad_fn.name()) == (capability == "emulated" or window[1] == 3)
    grad = images(*output.shape, seed=1, dtype=dtype)
    assert_same(torch.autograd.grad(output, input, grad), torch.autograd.grad(expected, input, grad))
    (value, indices), stock = (f(input, *window, return_indices=True) for f in (max_pool2d, F.max_pool2d))
    assert not indices.requires_grad
    assert_same(indices, stock[1])
    assert_same(torch.autograd.grad(value, input, grad), torch.autograd.grad(stock[0], input, grad))


def test_gradients_of_gradients():
    input = torch.randn(2, 3, 9, 9, requires_grad=True)

    def penalty(pool):
        (grad,) = torch.autograd.grad(pool(input, 3, 2, 1).square().sum(), input, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), input)

    assert_same(penalty(max_pool2d), penalty(F.max_pool2d))


def test_forward_mode_vmap_and_autocast():
    input = torch.randn(3, 2, 8, 8)
    assert_same(torch.vmap(lambda x: max_pool2d(x, 3, 1, 1))(input), F.max_pool2d(input, 3, 1, 1))
    values, indices = torch.vmap(lambda x: max_pool2d(x, 2, return_indices=True))(input)
    assert_same((values, indices), F.max_pool2d(input, 2, return_indices=True))
    tangent = torch.randn_like(input)
    ours, stock = (torch.func.jvp(lambda x, f=f: f(x, 2), (input,), (tangent,)) for f in (max_pool2d, F.max_pool2d))
    assert_same(ours, stock)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(max_pool2d(input, 2), F.max_pool2d(input, 2))
        assert_same(max_pool2d(input.bfloat16(), 2), F.max_pool2d(input.bfloat16(), 2))


@pytest.mark.parametrize("operator", [OPERATOR, WITH_INDICES])
@pytest.mark.parametrize("grad", [True, False])
def test_opcheck(operator, grad):
    for input, window in ((torch.randn(2, 3, 9, 8), (3, 2, 1)), (torch.randn(3, 9, 8), (2,))):
        torch.library.opcheck(operator, (input.requires_grad_(grad), *([n, n] for n in window)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_compiles_as_one_graph(grad, dynamic):
    targets = set()

    def backend(graph, _):
        targets.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph)

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: max_pool2d(x, 3, 2, 1),
        fullgraph=True,
        dynamic=dynamic,
        backend=aot_autograd(fw_compiler=backend, bw_compiler=backend),
    )
    for size in (7, 8, 13):
        input = torch.randn(2, 3, size, size + 1, requires_grad=grad)
        assert_same(compiled(input), F.max_pool2d(input, 3, 2, 1))
    assert ("fastvision.max_pool2d.default" in targets) != grad  # in training the graph has stock's operators
    assert ("aten.max_pool2d_with_indices.default" in targets) == grad


# ---- the module

MODULES = {
    "usual": {"kernel_size": 3, "stride": 2, "padding": 1},
    "by axis": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0), "ceil_mode": True},
    "indices": {"kernel_size": 2, "return_indices": True},
    "dilation": {"kernel_size": 2, "dilation": 2},
    "lists": {"kernel_size": [2, 3], "stride": [1, 1]},
}


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_module_is_stocks(options):
    stock, ours, input = nn.MaxPool2d(**options), fastvision.nn.MaxPool2d(**options), images(2, 3, 12, 13)
    expected = stock(input)
    for _ in range(2):  # the second call is prepared
        for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert_same(module(input), expected)
            assert str(module) == str(stock)
            with torch.inference_mode():
                assert_same(module(input), expected)


def test_a_module_whose_options_change():
    stock, ours, input = nn.MaxPool2d(2), fastvision.nn.MaxPool2d(2), images(2, 3, 12, 13)
    changes = {"kernel_size": [3, 3], "stride": None, "padding": 1, "ceil_mode": True, "return_indices": True}
    for name, value in changes.items():
        for module in (stock, ours):
            setattr(module, name, value)
        assert_same(ours(input), stock(input))
    for module in (stock, ours):
        module.kernel_size[0] = 2
    assert_same(ours(input), stock(input))
    ours.kernel_size = "3"
    with pytest.raises(TypeError):
        ours(input)


@pytest.mark.usefixtures("not_emulated")
def test_a_module_calls_the_operator():
    module, input = fastvision.nn.MaxPool2d(3, 2).eval(), images(2, 3, 12, 13)
    with torch.inference_mode():
        module(input)
        assert operators_of(lambda: module(input)) == {"fastvision::max_pool2d"}


def test_a_recorded_module_is_stocks():
    module, input = fastvision.nn.MaxPool2d(3, 2).eval(), images(2, 3, 12, 13)
    module(input)
    program = torch.export.export(module, (input,))
    assert torch.ops.aten.max_pool2d.default in {node.target for node in program.graph.nodes}
    assert_same(torch.jit.trace(module, input)(input), F.max_pool2d(input, 3, 2))
    assert_same(torch.compile(module, fullgraph=True, backend="eager")(input), F.max_pool2d(input, 3, 2))


# ---- conversion


class Branches(nn.Module):
    """Pools behind no convolution: as a module, as functions, one with two results."""

    def __init__(self):
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        fused = F.max_pool2d(F.relu(self.convolution(x)), [3, 3], stride=1, padding=1)
        places = F.max_pool2d(x, 3, 1, 1, return_indices=True)[1]
        dilated = F.max_pool2d(x, 2, 1, 1, 2)
        return torch.cat([fused, self.pool(x), torch.max_pool2d(x, 3, [1, 1], 1), places, dilated], 1)


def test_pools_of_a_forward():
    model, input = Branches().eval(), torch.randn(2, 3, 9, 9)
    converted = fastvision.convert(model, input)
    call, fused = "calls fastvision.ops.max_pool2d", "one conv2d_pool2d(activation='relu', pool='max')"
    assert fastvision.explain(model).rows == (
        Row("(model)", ("max_pool2d",), "replaceable", call),
        Row("convolution to max_pool2d()", ("Conv2d", "ReLU", "MaxPool2d"), "replaceable", fused),
        Row("pool", ("MaxPool2d",), "replaceable", call),
    )
    assert {row.status for row in fastvision.explain(converted).rows} == {"replaced"}
    with torch.no_grad():
        operators = operators_of(lambda: converted(input))
        assert {"fastvision::max_pool2d", "fastvision::conv2d_pool2d"} <= operators
        assert_same(converted(input)[:, 4:], model(input)[:, 4:])
    assert_trains_and_follows(converted, model, input)
    assert type(fastvision.revert(converted).pool) is nn.MaxPool2d
    assert type(converted) is Branches
    assert converted.pool.__dict__.keys() == model.pool.__dict__.keys()


class OnlyPools(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 2) + F.max_pool2d(x, kernel_size=2)


@pytest.mark.usefixtures("not_emulated")
def test_a_forward_of_pools_alone():
    model, input = OnlyPools(), images(1, 2, 8, 8)
    converted = fastvision.convert(model)
    assert [row.layers for row in fastvision.explain(converted).rows] == [("max_pool2d",)] * 2
    assert "aten::max_pool2d" not in operators_of(lambda: converted(input))
    assert_same(converted(input), model(input))


def test_pools_of_a_sequential():
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Tanh(), nn.MaxPool2d(2), nn.MaxPool2d(2, dilation=2))
    ).eval()
    input, hooked = torch.randn(1, 3, 24, 24), []
    model[4].register_forward_hook(lambda *_: hooked.append(1))
    converted = fastvision.convert(model, input)
    rows = fastvision.explain(converted).rows
    assert [(row.name, row.status) for row in rows] == [
        ("0 to 2", "replaced"),
        ("3", "not replaced"),
        ("4", "replaced"),
        ("5", "not replaced"),
    ]
    assert rows[-1].reason == "has a dilated window, which the fused operator has not"
    assert type(converted[2]) is type(converted[4]) is fastvision.nn.MaxPool2d
    assert type(converted[5]) is nn.MaxPool2d
    hooked.clear()
    torch.testing.assert_close(converted(input), model(input))
    assert len(hooked) == 2
    # The class of a converted pool fuses as stock's does.
    again = fastvision.convert(fastvision.revert(nn.Sequential(nn.Conv2d(3, 4, 3), fastvision.nn.MaxPool2d(2))))
    assert [row.name for row in fastvision.explain(again).rows] == ["0 to 1"]
    assert [row.name for row in fastvision.explain(nn.Sequential(nn.Conv2d(3, 4, 3), converted[2])).rows] == ["0 to 1"]
    for layer in (converted[2], nn.MaxPool2d(2)):
        run = fastvision.convert(nn.Sequential(nn.Conv2d(3, 4, 3), layer))
        assert "fastvision::max_pool2d" not in operators_of(lambda net=run: net(input))


def test_a_converted_model_is_not_scriptable():
    with pytest.raises(RuntimeError, match="expected a module of stock layers"):
        torch.jit.script(fastvision.nn.MaxPool2d(2))


def test_a_lone_pool_in_a_compiled_model_is_inductors():
    seen = []

    def inner(graph, _):
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    model, input = OnlyPools().eval(), images(1, 2, 8, 8)
    compiled = torch.compile(model, backend="fastvision", options={"inner": inner})
    assert_same(compiled(input), model(input))
    assert not any("fastvision" in str(target) for target in seen)
