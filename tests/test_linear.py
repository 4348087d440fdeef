"""fastvision.ops.linear and linear_quantized against stock in float64, and fastvision.nn.Linear as a drop-in."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from profiled import operators_of
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import fastvision
from fastvision.nn.storage import dequantize, quantize
from fastvision.ops import linear, linear_quantized, linear_quantized_reference, linear_reference

OPERATOR = torch.ops.fastvision.linear.default
QUANTIZED = torch.ops.fastvision.linear_quantized.default
pytestmark = pytest.mark.usefixtures("one_thread")
# Rows, in_features, out_features: all tiles, and lengths beside the vectors' and the chains'.
SIZES = [(1, 1, 1), (1, 33, 13), (2, 40, 7), (3, 17, 12), (4, 128, 10), (5, 1024, 8), (7, 1025, 9), (8, 2100, 3)]
# Rows enough for packed weights, where those pay: parts of panels, of blocks of rows and of the depth.
MANY_ROWS = [(9, 16, 32), (12, 5, 1), (40, 1030, 35), (200, 33, 70), (385, 2050, 16)]


def draw(rows, in_features, out_features, *, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (rows, in_features), (out_features, in_features), (out_features,)
    input, weight, offset = (torch.randn(shape, generator=generator) for shape in shapes)
    return input, weight, offset if bias else None


def exact(input, weight, bias, activation="none"):
    result = F.linear(input.double(), weight.double(), None if bias is None else bias.double())
    return result.relu() if activation == "relu" else result


def assert_accurate(actual, expected):
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("sizes", SIZES + MANY_ROWS)
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_agrees_with_float64(capability, sizes, activation, bias):
    tensors = draw(*sizes, bias=bias)
    output = linear(*tensors, activation=activation)
    assert_accurate(output, exact(*tensors, activation))
    assert_accurate(linear_reference(*tensors, activation=activation), exact(*tensors, activation))


@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    in_features=st.integers(1, 70),
    out_features=st.integers(1, 40),
    strided=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_any_shape_and_strides(leading, in_features, out_features, strided):
    generator = torch.Generator().manual_seed(in_features)

    def tensor(*shape, apart):
        drawn = torch.randn(*shape[:-1], 2 * shape[-1] if apart else shape[-1], generator=generator)
        return drawn[..., ::2] if apart else drawn

    input = tensor(*leading, in_features, apart=strided[0])
    weight, bias = tensor(out_features, in_features, apart=strided[1]), tensor(out_features, apart=strided[2])
    output = linear(input, weight, bias)
    assert output.shape == (*leading, out_features)
    assert_accurate(output, exact(input, weight, bias))


def test_rows_apart_in_memory(capability):
    input, weight, bias = draw(3, 64, 24)
    views = (input[:, 8:48], weight[:, 3:43], bias)
    assert_accurate(linear(*views), exact(*views))


@pytest.mark.usefixtures("not_emulated")
def test_the_kernel_runs_for_few_rows(capability):
    """Otherwise these tests would compare stock with itself."""
    few, more = draw(8, 40, 6), draw(9, 40, 6)
    kernels = {"fastvision::linear"}
    assert operators_of(lambda: linear(*few)) == kernels
    operators = operators_of(lambda: linear(*more))
    assert "aten::addmm" in operators or (capability == "avx512" and operators == kernels)  # on AMD's processors
    with fastvision.backends.enabled(False):
        assert "aten::addmm" in operators_of(lambda: linear(*few))


@pytest.mark.usefixtures("not_emulated")
def test_a_row_has_the_same_bits_beside_others():
    for most, fewer in ((8, (1, 2, 3, 5)), (300, (20, 64, 193))):
        input, weight, bias = draw(most, 1500, 21)
        if most > 8 and "aten::addmm" in operators_of(lambda tensors=(input, weight, bias): linear(*tensors)):
            continue  # stock's affair
        together = linear(input, weight, bias)
        for rows in fewer:
            assert torch.equal(linear(input[:rows], weight, bias), together[:rows])


@pytest.mark.usefixtures("not_emulated")
@pytest.mark.parametrize("rows", [6, 70])
def test_two_threads_give_the_same_bits(intraop_threads, rows):
    tensors = draw(rows, 700, 130)
    one = linear(*tensors)
    intraop_threads(2)
    assert torch.equal(linear(*tensors), one)


@pytest.mark.parametrize("rows", [5, 30])
def test_nan_stays_in_its_row(capability, rows):
    input, weight, bias = draw(rows, 40, 9)
    input[2, 7] = float("nan")
    output = linear(input, weight, bias, activation="relu")
    assert output[2].isnan().all()
    assert output.isfinite().all(1).sum() == rows - 1


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (5,)])
def test_empty_and_unbatched(shape):
    input, weight, bias = torch.randn(shape), torch.randn(3, 5), torch.randn(3)
    torch.testing.assert_close(linear(input, weight, bias), F.linear(input, weight, bias))


def test_no_features():
    torch.testing.assert_close(linear(torch.ones(2, 0), torch.ones(3, 0), torch.ones(3)), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_stocks(dtype):
    tensors = [tensor.to(dtype) for tensor in draw(3, 20, 6)]
    assert torch.equal(linear(*tensors), F.linear(*tensors))


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.ones(2, 4), torch.ones(3, 5)),
        (torch.ones(2, 5), torch.ones(3, 5), torch.ones(4)),
        (torch.ones(2, 5), torch.ones(3, 5).double()),
        (torch.ones(()), torch.ones(3, 5)),
    ],
)
def test_what_stock_refuses_is_refused(arguments):
    with pytest.raises(RuntimeError) as stock:
        F.linear(*arguments)
    with pytest.raises(RuntimeError) as ours:
        linear(*arguments)
    assert str(ours.value) == str(stock.value)


def test_unknown_activation():
    with pytest.raises(RuntimeError, match="activation: expected 'none' or 'relu', got 'tanh'"):
        linear(*draw(1, 2, 3), activation="tanh")


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_gradients(activation):
    tensors = [tensor.double().requires_grad_() for tensor in draw(3, 5, 4)]
    assert torch.autograd.gradcheck(lambda *t: linear(*t, activation=activation), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: linear(*t, activation=activation), tensors)


# Rows, in_features, out_features for which gradients have kernels on every machine: of the weight, of the input, and
# of both, with parts of blocks.
TRAINED = [(5, 3000, 2800), (9, 4100, 33), (3, 16421, 515)]


@pytest.mark.parametrize("sizes", TRAINED)
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("wanted", ["input", "weight", "all", "all without bias"])
def test_gradients_agree_with_float64(capability, sizes, activation, wanted):
    tensors = draw(*sizes, bias=wanted != "all without bias")
    grad_output = torch.randn(sizes[0], sizes[2], generator=torch.Generator().manual_seed(1))
    leaves = {"input": tensors[:1], "weight": tensors[1:2], "all": tensors}.get(wanted, tensors[:2])
    for leaf in leaves:
        leaf.requires_grad_()
    actual = torch.autograd.grad(linear(*tensors, activation=activation), leaves, grad_output)
    expected = torch.autograd.grad(exact(*tensors, activation), leaves, grad_output.double())
    for gradient, right in zip(actual, expected, strict=True):
        # The reference's gradients arrive in float32.
        assert_accurate(gradient, right.double())


@pytest.mark.usefixtures("not_emulated")
@pytest.mark.parametrize("sizes", TRAINED)
def test_the_kernels_run_for_gradients(capability, sizes):
    tensors = [tensor.requires_grad_() for tensor in draw(*sizes)]
    output = linear(*tensors)
    gradients = operators_of(lambda: output.sum().backward())
    assert "fastvision::linear_backward" in gradients
    both = sizes[1] * sizes[2] >= 1 << 23 and sizes[1] >= 4 * sizes[2]
    assert ("aten::mm" not in gradients) == both or capability == "avx512"


def test_a_layer_whose_gradients_are_stocks_is_stocks():
    fastvision.backends.cpu.capability = "default"  # others multiply wider than stock on some processors
    tensors = [tensor.requires_grad_() for tensor in draw(9, 40, 6)]
    assert linear(*tensors).grad_fn.name() == "AddmmBackward0"
    tensors = [tensor.requires_grad_() for tensor in draw(*TRAINED[0])]
    with fastvision.backends.enabled(False):
        assert linear(*tensors).grad_fn.name() == "AddmmBackward0"


def test_gradients_of_any_strides(capability):
    input, weight, bias = draw(6, 8300, 520)
    views = [input[:, 40:8240].unflatten(0, (2, 3)), weight[:, 100:8300], bias]
    for view in views:
        view.requires_grad_()
    grad_output = torch.randn(520, 2, 3).movedim(0, -1)
    for grad in (grad_output, torch.ones(()).expand(2, 3, 520)):
        actual = torch.autograd.grad(linear(*views), views, grad)
        expected = torch.autograd.grad(exact(*views), views, grad.double())
        for gradient, right in zip(actual, expected, strict=True):
            assert_accurate(gradient, right.double())


def test_gradients_with_two_threads_have_the_same_bits(capability, intraop_threads):
    tensors = [tensor.requires_grad_() for tensor in draw(*TRAINED[2])]
    results = []
    for threads in (1, 2):
        intraop_threads(threads)
        results.append(torch.autograd.grad(linear(*tensors).square().sum(), tensors))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_gradients_of_gradients(activation):
    tensors = [tensor.requires_grad_() for tensor in draw(*TRAINED[2])]

    def penalty(operator):
        output = operator(*tensors, activation=activation)
        gradients = torch.autograd.grad(output.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), tensors)

    for actual, expected in zip(penalty(linear), penalty(linear_reference), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_weight_changed_before_the_backward_pass_is_refused():
    tensors = [tensor.requires_grad_() for tensor in draw(*TRAINED[2])]
    output = linear(*tensors)
    with torch.no_grad():
        tensors[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_compiled_training_has_stocks_operators():
    tensors = [tensor.requires_grad_() for tensor in draw(*TRAINED[2])]
    seen = set()

    def backend(graph, _):
        seen.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph)

    compiled = torch.compile(
        lambda *t: linear(*t, activation="relu"), backend=aot_autograd(fw_compiler=backend, bw_compiler=backend)
    )
    actual = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    expected = torch.autograd.grad(linear(*tensors, activation="relu").sum(), tensors)
    assert {"aten.addmm.default", "aten.mm.default"} <= seen
    assert not any("fastvision" in name for name in seen)
    for gradient, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-3)


def test_gradients_that_do_not_fit_are_refused():
    """By the reference, to which they go."""
    input, weight, _ = draw(3, 16421, 515)
    fitting, double = torch.ones(3, 515), torch.ones(3, 515).double()
    for grad_output, output in (
        (torch.ones(3, 514), None),
        (torch.ones(2, 515), None),
        (double, None),
        (fitting, torch.ones(2, 3, 515)),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.fastvision.linear_backward(grad_output, input, weight, output, [True, True, True])


@pytest.mark.parametrize("grad", [True, False])
def test_opcheck(grad):
    tensors = [tensor.requires_grad_(grad) for tensor in draw(3, 5, 4)]
    torch.library.opcheck(OPERATOR, tuple(tensors), {"activation": "relu"})
    input, weight, bias = draw(3, 5, 4)
    torch.library.opcheck(QUANTIZED, (input, *quantize(weight, torch.int8), bias))


def test_vmap_and_autocast():
    input, weight, bias = draw(6, 5, 4)
    batched = torch.vmap(lambda x: linear(x, weight, bias))(input.view(3, 2, 5))
    torch.testing.assert_close(batched.view(6, 4), F.linear(input, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(input, weight, bias), F.linear(input, weight, bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("sizes", SIZES)
def test_quantized_agrees_with_decoded_weights(capability, dtype, sizes):
    input, weight, bias = draw(*sizes)
    stored, scale = quantize(weight, dtype)
    output = linear_quantized(input, stored, scale, bias, activation="relu")
    assert_accurate(output, exact(input, dequantize(stored, scale), bias, "relu"))
    reference = linear_quantized_reference(input, stored, scale, bias, activation="relu")
    assert_accurate(reference, exact(input, dequantize(stored, scale), bias, "relu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 4), torch.ones(3, 4), None), "weight: expected bfloat16 or int8, got Float"),
        ((torch.ones(2, 4), torch.ones(3).bfloat16(), None), r"weight: expected shape \(out_features, in_features\)"),
        ((torch.ones(2, 4), torch.ones(3, 4).char(), None), "scale: expected a factor for each row"),
        ((torch.ones(2, 4), torch.ones(3, 4).bfloat16(), torch.ones(3)), "scale: expected none with bfloat16"),
        ((torch.ones(2, 4), torch.ones(3, 4).char(), torch.ones(2)), r"scale: expected float32 of shape \(3\)"),
        ((torch.ones(2, 4).int(), torch.ones(3, 4).bfloat16(), None), "input: expected a floating point dtype"),
    ],
)
def test_quantized_arguments_are_checked(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        linear_quantized(*arguments)


# ---- the module


def test_module_is_stocks():
    torch.manual_seed(0)
    stock = nn.Linear(20, 6)
    torch.manual_seed(0)
    ours = fastvision.nn.Linear(20, 6)
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert list(module.state_dict()) == list(stock.state_dict())
        assert torch.equal(module.weight, stock.weight)
        assert str(module) == str(stock)
        x = torch.randn(4, 20)
        torch.testing.assert_close(module(x), stock(x))
        with torch.inference_mode():
            torch.testing.assert_close(module(x), stock(x))


def test_module_without_bias_compiles():
    module = fastvision.nn.Linear(20, 6, bias=False).eval()
    compiled = torch.compile(module, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for rows in (2, 5, 11):
            x = torch.randn(rows, 20)
            torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_stored_weights_follow_training(dtype):
    module = fastvision.nn.Linear(64, 32)
    module.weight_dtype = dtype
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    x = torch.randn(4, 64)
    for _ in range(2):
        module.train()
        loss = module(x).square().sum()
        torch.testing.assert_close(loss, F.linear(x, module.weight, module.bias).square().sum())
        loss.backward()
        optimizer.step()
        module.eval()
        with torch.no_grad():
            stored, scale = quantize(module.weight, dtype)
            assert torch.equal(module(x), linear_quantized(x, stored, scale, module.bias))
    assert 0 < module.weight_error() < 0.02


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("training", [False, True])
def test_module_with_relu(dtype, training):
    module, x = nn.Linear(40, 9), torch.randn(3, 40)
    module.__class__ = fastvision.nn.Linear
    module.weight_dtype = dtype
    module.train(training)
    with torch.set_grad_enabled(training):
        assert torch.equal(module.with_relu(x), module(x).relu())
        assert module.with_relu(x).requires_grad == training


def test_convert_and_revert():
    model = nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 30)
    converted = fastvision.convert(model, x, weight_dtype=torch.bfloat16)
    assert [type(layer) for layer in converted] == [fastvision.nn.Linear, nn.ReLU, fastvision.nn.Linear]
    assert "fastvision.ops.linear, in inference with weights in bfloat16" in str(fastvision.explain(converted))
    with torch.no_grad():
        assert not torch.equal(converted(x), model(x))
        torch.testing.assert_close(converted(x), model(x), rtol=0.05, atol=0.05)
        reverted = fastvision.revert(converted)
        assert type(reverted[0]) is nn.Linear
        assert torch.equal(reverted(x), model(x))
