"""fastvision.nn: the fused convolution modules against the stock layers they stand for."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close
from torch.testing._internal.common_modules import module_db

from fastvision.nn import Conv2d, ConvReLU2d, ConvReLUAvgPool2d, ConvReLUMaxPool2d

FUSED = [ConvReLU2d, ConvReLUMaxPool2d, ConvReLUAvgPool2d]
MODULES = [Conv2d, *FUSED]

CONVOLUTIONS = {
    "plain": {},
    "stride and dilation": {"stride": (2, 1), "dilation": (1, 2)},
    "padding": {"padding": (1, 2)},
    "same": {"padding": "same", "kernel_size": (2, 5)},
    "valid": {"padding": "valid"},
    "groups, no bias": {"groups": 2, "bias": False},
    "reflect": {"padding": (1, 2), "padding_mode": "reflect"},
    "replicate, same": {"padding": "same", "padding_mode": "replicate"},
    "circular": {"padding": 1, "padding_mode": "circular"},
}
POOLS = {
    "2x2": {},
    "3x3 stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "rectangle, ceil": {"kernel_size": (2, 3), "stride": (1, 2), "ceil_mode": True},
}


def build_pair(module_class, convolution=None, pool=None, **factory):
    """A fused module and the stock layers, with equal weights by equal seeds."""
    convolution = {"kernel_size": 3, **(convolution or {})}
    pool = {"kernel_size": 2, **(pool or {})}
    torch.manual_seed(1)
    layers = [nn.Conv2d(4, 6, **convolution, **factory)]
    options = {}
    if module_class is not Conv2d:
        layers.append(nn.ReLU())
    if module_class in (ConvReLUMaxPool2d, ConvReLUAvgPool2d):
        layers.append(nn.MaxPool2d(**pool) if module_class is ConvReLUMaxPool2d else nn.AvgPool2d(**pool))
        options = {("" if name == "ceil_mode" else "pool_") + name: value for name, value in pool.items()}
        if "count_include_pad" in pool:
            options["count_include_pad"] = options.pop("pool_count_include_pad")
    torch.manual_seed(1)
    return module_class(4, 6, **convolution, **options, **factory), nn.Sequential(*layers)


def assert_same_computation(fused, stock, input):
    """Outputs and all gradients agree."""
    results = []
    for module in (fused, stock):
        leaf = input.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        output = module(leaf)
        torch.manual_seed(3)
        gradients = torch.autograd.grad(output, [leaf, *module.parameters()], torch.randn(output.shape))
        results.append((output, *gradients))
    assert_close(results[0], results[1])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # stock's
@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("module_class", MODULES)
def test_computes_what_the_stock_layers_compute(module_class, convolution):
    assert_same_computation(*build_pair(module_class, convolution), torch.randn(2, 4, 11, 12))


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("module_class", [ConvReLUMaxPool2d, ConvReLUAvgPool2d])
def test_pools_as_the_stock_layers(module_class, pool):
    assert_same_computation(*build_pair(module_class, pool=pool), torch.randn(2, 4, 11, 12))


def test_average_without_the_padding():
    pool = {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}
    assert_same_computation(*build_pair(ConvReLUAvgPool2d, pool=pool), torch.randn(2, 4, 11, 12))


INPUTS = {
    "unbatched": lambda: torch.randn(4, 9, 9),
    "empty batch": lambda: torch.randn(0, 4, 9, 9),
    "channels_last": lambda: torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last),
    "strided": lambda: torch.randn(2, 9, 9, 8).permute(0, 3, 1, 2)[:, ::2],
    "NaN": lambda: torch.randn(2, 4, 9, 9).index_fill(3, torch.tensor([4]), float("nan")),
}


@pytest.mark.parametrize("make_input", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("module_class", MODULES)
def test_takes_the_inputs_that_stock_takes(module_class, make_input):
    fused, stock = build_pair(module_class)
    input = make_input()
    actual, expected = fused(input), stock(input)
    assert_close(actual, expected, equal_nan=True)
    assert actual.stride() == expected.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("module_class", MODULES)
def test_factory_arguments(module_class, dtype):
    fused, stock = build_pair(module_class, dtype=dtype)
    assert {p.dtype for p in fused.parameters()} == {dtype}
    input = torch.randn(1, 4, 8, 8, dtype=dtype)
    assert_close(fused(input), stock(input))
    on_meta = module_class(4, 6, 3, device="meta")
    assert on_meta(torch.empty(1, 4, 8, 8, device="meta")).shape == fused(input).shape


@pytest.mark.parametrize("module_class", MODULES)
def test_state_dict_is_conv2ds(module_class):
    fused, stock = build_pair(module_class)
    other = nn.Conv2d(4, 6, 3)
    assert list(fused.state_dict()) == list(other.state_dict())
    assert_close(fused.state_dict(), stock[0].state_dict(), rtol=0, atol=0)
    fused.load_state_dict(other.state_dict())
    other_again = nn.Conv2d(4, 6, 3)
    other_again.load_state_dict(fused.state_dict())
    assert torch.equal(other.weight, other_again.weight)


def test_repr_shows_every_option():
    assert repr(ConvReLU2d(4, 6, 3, padding=1)) == (
        "ConvReLU2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"
    )
    assert repr(ConvReLUMaxPool2d(4, 6, 3)) == (
        "ConvReLUMaxPool2d(4, 6, kernel_size=(3, 3), stride=(1, 1), pool_kernel_size=2, pool_stride=2, "
        "pool_padding=0, ceil_mode=False)"
    )
    assert repr(ConvReLUAvgPool2d(4, 6, 3, pool_stride=1)) == (
        "ConvReLUAvgPool2d(4, 6, kernel_size=(3, 3), stride=(1, 1), pool_kernel_size=2, pool_stride=1, "
        "pool_padding=0, ceil_mode=False, count_include_pad=True)"
    )


# Attribute of the fused module, index of the stock layer that has it, its name there, a new value.
ATTRIBUTES = [
    ("stride", 0, "stride", (2, 1)),
    ("padding", 0, "padding", (0, 2)),
    ("dilation", 0, "dilation", (2, 2)),
    ("padding_mode", 0, "padding_mode", "circular"),
    ("pool_kernel_size", 2, "kernel_size", (2, 3)),
    ("pool_stride", 2, "stride", 1),
    ("pool_padding", 2, "padding", (0, 1)),
    ("ceil_mode", 2, "ceil_mode", True),
    ("count_include_pad", 2, "count_include_pad", False),
]


@pytest.mark.parametrize(("name", "index", "stock_name", "value"), ATTRIBUTES, ids=[row[0] for row in ATTRIBUTES])
def test_attributes_may_change_after_construction(name, index, stock_name, value):
    fused, stock = build_pair(ConvReLUAvgPool2d, {"padding": 2}, {"kernel_size": 3, "stride": 2, "padding": 1})
    input = torch.randn(1, 4, 10, 11)
    before = fused(input)
    setattr(fused, name, value)
    setattr(stock[index], stock_name, value)
    after = fused(input)
    assert_close(after, stock(input))
    assert after.shape != before.shape or not torch.equal(after, before)


def test_groups_may_change_with_the_weight():
    fused, _ = build_pair(ConvReLU2d)
    fused.weight = nn.Parameter(fused.weight[:, :2].clone())
    fused.groups = 2
    input = torch.randn(1, 4, 8, 8)
    assert_close(fused(input), torch.relu(nn.functional.conv2d(input, fused.weight, fused.bias, groups=2)))


def test_same_padding_follows_a_replaced_weight():
    fused, stock = build_pair(ConvReLU2d, {"padding": "same"})
    fused.weight = stock[0].weight = nn.Parameter(torch.randn(6, 4, 2, 5))
    input = torch.randn(1, 4, 8, 8)
    assert_close(fused(input), stock(input))


@pytest.mark.parametrize("module_class", MODULES)
def test_copies_and_pickles(module_class):
    fused, stock = build_pair(module_class, {"padding": 1})
    input = torch.randn(1, 4, 8, 8)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for clone in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), torch.load(file, weights_only=False)):
        assert clone.weight is not fused.weight
        assert_close(clone(input), stock(input))
        clone.stride = (2, 2)
        assert clone(input).shape != fused(input).shape


@pytest.mark.parametrize("module_class", MODULES)
def test_compiles_as_one_graph(module_class):
    fused, stock = build_pair(module_class, {"padding": 1})
    torch._dynamo.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    assert_same_computation(compiled, stock, torch.randn(2, 4, 8, 8))
    fused.stride = stock[0].stride = (2, 2)
    assert_same_computation(compiled, stock, torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("module_class", FUSED)
def test_exports_with_a_free_batch_size(module_class):
    fused, stock = build_pair(module_class, {"padding": "same"})
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(fused, (torch.randn(2, 4, 8, 8),), dynamic_shapes=({0: batch},))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.fastvision.conv2d_pool2d.default]
    input = torch.randn(5, 4, 8, 8)
    assert_close(program.module()(input), stock(input))


@pytest.mark.parametrize("record", [torch.jit.trace, lambda m, x: torch.export.export(m, x).graph_module])
def test_a_recorded_conv2d_is_stocks(record):
    module, _ = build_pair(Conv2d)
    graph = str(record(module, (torch.randn(1, 4, 8, 8),)).graph)
    assert "fastvision::" not in graph
    assert "ops.fastvision" not in graph


PYTORCHS_CASES = [entry for entry in module_db if entry.name == "nn.Conv2d"]


@pytest.mark.parametrize("entry", PYTORCHS_CASES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_pytorchs_own_cases_of_conv2d(entry, dtype):
    cases = entry.module_inputs_func(entry, device="cpu", dtype=dtype, requires_grad=False, training=True)
    assert cases
    for case in cases:
        made, call = case.constructor_input, case.forward_input
        ours, stock = (cls(*made.args, **made.kwargs).to(dtype) for cls in (Conv2d, entry.module_cls))
        ours.load_state_dict(stock.state_dict())
        assert_close(ours(*call.args, **call.kwargs), stock(*call.args, **call.kwargs))


def test_hooks_run():
    fused, _ = build_pair(ConvReLUMaxPool2d)
    fused.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 0,))
    fused.register_forward_hook(lambda module, arguments, output: output + 1)
    expected = torch.relu(fused.bias).view(1, -1, 1, 1) + 1
    assert_close(fused(torch.randn(1, 4, 8, 8)), expected.expand(1, 6, 3, 3))


REPARAMETRIZATIONS = {
    "weight_norm": lambda m: parametrizations.weight_norm(m),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.eval()),
    "pruning": lambda m: prune.l1_unstructured(prune.l1_unstructured(m, "weight", 0.5), "bias", 0.5),
}


@pytest.mark.parametrize("reparametrize", REPARAMETRIZATIONS.values(), ids=REPARAMETRIZATIONS)
def test_reparametrized_weights(reparametrize):
    fused, stock = build_pair(ConvReLUMaxPool2d)
    for module in (fused, stock[0]):
        torch.manual_seed(5)
        reparametrize(module)
    with torch.no_grad():
        for parameter, other in zip(fused.parameters(), stock.parameters(), strict=True):
            parameter.mul_(1.5)
            other.mul_(1.5)
    assert_same_computation(fused, stock, torch.randn(2, 4, 8, 8))


def test_functional_call_takes_other_parameters():
    fused, _ = build_pair(ConvReLU2d)
    weight, bias = torch.randn(6, 4, 3, 3), torch.randn(6)
    input = torch.randn(1, 4, 8, 8)
    actual = torch.func.functional_call(fused, {"weight": weight, "bias": bias}, (input,))
    assert_close(actual, torch.relu(nn.functional.conv2d(input, weight, bias)))


def test_subclasses_may_add_attributes_and_call_the_parents_forward():
    class Scaled(ConvReLUMaxPool2d):
        def __init__(self):
            super().__init__(4, 6, 3)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, input):
            return super().forward(input) * self.scale

    torch.manual_seed(1)
    scaled = Scaled()
    input = torch.randn(1, 4, 8, 8)
    assert_close(scaled(input), build_pair(ConvReLUMaxPool2d)[1](input) * 2)


def test_autocast():
    fused, stock = build_pair(ConvReLUMaxPool2d)
    input = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = fused(input), stock(input)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert_close(actual, expected)


ERRORS = {
    "channels": (ConvReLU2d, {}, (1, 3, 8, 8), "input: expected 4 channels .* got 3"),
    "dimensions": (ConvReLU2d, {}, (8, 8), r"input: expected shape .* got \[8, 8\]"),
    "kernel too large": (ConvReLU2d, {}, (1, 4, 2, 2), "weight: expected a kernel that fits the padded input"),
    "pool padding": (
        ConvReLUMaxPool2d,
        {"pool_padding": 2},
        (1, 4, 8, 8),
        "pool_padding: expected at most half",
    ),
    "pool window": (ConvReLUAvgPool2d, {"pool_kernel_size": 9}, (1, 4, 8, 8), "pool_kernel_size: expected a window"),
    "pool stride": (ConvReLUMaxPool2d, {"pool_stride": 0}, (1, 4, 8, 8), r"pool_stride: expected integers .*got \[0"),
}


@pytest.mark.parametrize(("module_class", "options", "shape", "message"), ERRORS.values(), ids=ERRORS)
def test_calls_that_stock_refuses(module_class, options, shape, message):
    module = module_class(4, 6, 3, **options)
    with pytest.raises(RuntimeError, match=message):
        module(torch.randn(shape))


CONSTRUCTOR_ERRORS = {
    "in_channels": ({"in_channels": 3, "groups": 2}, "in_channels must be divisible by groups"),
    "out_channels": ({"out_channels": 5, "groups": 2}, "out_channels must be divisible by groups"),
    "padding": ({"padding": "full"}, "Invalid padding string 'full'"),
    "stride": ({"padding": "same", "stride": 2}, "padding='same' is not supported for strided convolutions"),
    "padding_mode": ({"padding_mode": "mirror"}, "padding_mode must be one of .* but got padding_mode='mirror'"),
}


@pytest.mark.parametrize(("options", "message"), CONSTRUCTOR_ERRORS.values(), ids=CONSTRUCTOR_ERRORS)
@pytest.mark.parametrize("module_class", MODULES)
def test_constructor_refuses_what_conv2ds_refuses(module_class, options, message):
    with pytest.raises(ValueError, match=message):
        module_class(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})


def test_a_stride_that_does_not_go_with_same_padding():
    module = ConvReLU2d(4, 6, 3, padding="same")
    module.stride = (2, 2)
    with pytest.raises(RuntimeError, match="'same' expects stride 1, got stride \\(2, 2\\)"):
        module(torch.randn(1, 4, 8, 8))
