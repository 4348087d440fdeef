"""convert, revert and explain on models whose own forwards call convolutions."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from convert_forwards import (
    MODELS,
    BasicBlock,
    Fire,
    HandWritten,
    InputInPlace,
    InvertedResidual,
    ResNet,
    Reused,
    TwoUsers,
)
from convert_models import (
    FUSED,
    fused_calls,
    modules_called,
    native_sequences,
    operators_called,
    seeded,
    tensors,
    training_step,
)
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from fastvision.convert import convert, explain, revert

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", MODELS)
def test_same_computation_in_fewer_operators(name, images):
    build, in_eval, in_training = MODELS[name]
    model = seeded(build)
    converted = convert(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert isinstance(converted, build)
    for mode, calls in ((False, in_eval), (True, in_training), (False, in_eval)):
        results = [training_step(module.train(mode), images) for module in (converted, model)]
        assert_close(*results, rtol=1e-3, atol=1e-4)
        assert [fused_calls(module, images) for module in (converted, model)] == [calls, 0]
    expected = tensors(model(images))
    for clone in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert_close(tensors(clone(images)), expected, rtol=1e-4, atol=1e-4)
        assert fused_calls(clone, images) == in_eval
    revert(converted)
    for module, stock in zip(converted.modules(), model.modules(), strict=True):
        assert type(module) is type(stock)
        assert vars(module).keys() == vars(stock).keys()
    converted.load_state_dict(model.state_dict())  # running means of convolutions that were rounded differently
    for output, stock in zip(tensors(converted(images)), expected, strict=True):
        assert torch.equal(output, stock)


def test_writing_over_the_input_of_a_run(images):
    """A convolution reads its input where the forward calls it, not where its ReLU is called."""
    model = InputInPlace()
    converted = convert(model)
    expected = images.clone()
    with torch.no_grad():
        assert_close(converted(images), model(expected))
    assert torch.equal(images, expected)
    assert fused_calls(converted, images) == 1


def test_values_with_two_users_are_kept(images):
    model = TwoUsers()
    assert type(convert(model)) is TwoUsers
    assert [row.reason for row in explain(model).rows] == ["has an output that is used 2 times"] * 2


def test_in_place_keeps_modules_parameters_and_hooks(images):
    model = seeded(ResNet).eval()
    seen = []
    model.layer1[0].register_forward_hook(lambda *_: seen.append("block"))
    model.maxpool.register_forward_hook(lambda *_: seen.append("pool"))
    objects = [*model.modules(), *model.parameters()]
    expected = model(images)
    assert convert(model, inplace=True) is model
    assert all(a is b for a, b in zip(objects, [*model.modules(), *model.parameters()], strict=True))
    assert type(model.layer1[0]).__name__ == "FusedBasicBlock"
    assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert seen == ["pool", "block"] * 2


def test_arguments_that_decide(images):
    model = seeded(HandWritten).eval()
    converted = convert(model)
    scale = torch.tensor(3.0)
    for arguments, keywords in (
        ((), {}),
        ((scale,), {}),
        ((), {"bias": False}),
        ((None, False), {}),
        ((), {"bias": 0, "scale": scale}),
        ((2.5,), {}),  # a constant that is not traced
    ):
        expected = model(images, *arguments, **keywords)
        for _ in range(2):
            assert_close(converted(images, *arguments, **keywords), expected, rtol=1e-4, atol=1e-5)
    assert fused_calls(lambda input: converted(input, bias=False), images) == 3
    assert fused_calls(lambda input: converted(input, 2.5), images) == 0


def replace(name, build):
    return lambda model: setattr(model, name, build())


CHANGES = {
    "option": lambda m: setattr(m.conv1, "stride", (2, 2)),
    "weights": lambda m: m.conv1.weight.data.mul_(2),
    "child replaced": replace("conv1", lambda: seeded(lambda: nn.Conv2d(3, 3, 3, padding=1, bias=False))),
    "relu replaced": replace("relu", nn.Tanh),
    "forward of a child": lambda m: setattr(m.relu, "forward", lambda input: input - 1),
    "parametrized": lambda m: parametrizations.weight_norm(m.conv1).parametrizations.weight.original0.data.mul_(2),
    "branch": replace("downsample", lambda: nn.Identity()),
    "forward in training mode": lambda m: setattr(m, "training", True),
    "norm in training mode": lambda m: m.bn1.train(),
    "forward of the instance": lambda m: setattr(m, "forward", lambda input: input + 1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_program_is_never_stale(change, images):
    model = seeded(lambda: BasicBlock(3, 3)).eval()
    converted = convert(model)
    assert fused_calls(converted, images) == 2
    change(model)
    change(converted)
    results = []
    for module in (model, converted):
        try:
            results.append(module(images))
        except RuntimeError as error:
            results.append(str(error))
    if isinstance(results[0], str):
        assert results[1] == results[0]
    else:
        assert_close(*results, rtol=1e-4, atol=1e-4)


def test_attributes_that_decide_are_never_stale(images):
    model = seeded(Reused)
    converted = convert(model)
    converted(images)
    for module in (model, converted):
        module.activation = torch.tanh
    assert_close(converted(images), model(images), rtol=1e-4, atol=1e-4)


def test_attributes_that_may_be_absent_are_never_stale(images):
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            x = F.relu(self.conv(x)) * getattr(self, "scale", 2)
            return -x if hasattr(self, "negative") else x

    model = Optional()
    converted = convert(model)
    assert fused_calls(converted, images) == 1
    for name, value in (("scale", 3.0), ("negative", None)):
        for module in (model, converted):
            setattr(module, name, value)
        assert_close(converted(images), model(images))
    assert fused_calls(converted, images) == 1


def test_a_shallow_copy_has_programs_of_its_own(images):
    model = seeded(Reused)
    converted = convert(model)
    converted(images)
    other = copy.copy(converted)
    other.activation = model.activation = torch.tanh
    assert_close(other(images), model(images), rtol=1e-4, atol=1e-4)


def test_replicas_of_data_parallel_run_the_stock_forward(images):
    model = seeded(Reused)
    replica = convert(model)._replicate_for_data_parallel()
    assert fused_calls(replica, images) == 0
    assert torch.equal(replica(images), model(images))


def test_a_class_that_refuses_subclasses_is_left_alone():
    class Final(Reused):
        def __init_subclass__(cls):
            raise TypeError("final")

    model = Final()
    assert type(convert(model)) is Final


def test_lists_of_modules_are_never_stale(images):
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)])

        def forward(self, x):
            for index, stage in enumerate(self.stages):
                x = F.relu(stage(x)) if index < len(self.stages) else x
            return x

    model = seeded(Stages)
    converted = convert(model)
    assert fused_calls(converted, images) == 2
    for module in (model, converted):
        module.stages.append(nn.Identity())
    assert_close(converted(images), model(images))
    assert fused_calls(converted, images) == 2
    for module in (model, converted):
        del module.stages[0]
    assert_close(converted(images), model(images))
    assert fused_calls(converted, images) == 1


def test_a_class_whose_forward_is_replaced(images):
    class Net(Fire):
        def forward(self, x):
            return F.relu(self.squeeze(x))

    model = Net()
    converted = convert(model)
    assert_close(converted(images), model(images))
    Net.forward = Fire.forward
    assert_close(converted(images), model(images))


def test_global_hooks_see_every_layer(images):
    converted = convert(Fire())
    converted(images)
    names = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: names.append(type(module).__name__))
    try:
        converted(images)
    finally:
        handle.remove()
    assert names == ["Conv2d", "ReLU"] * 3 + ["FusedFire"]


def test_compilers_and_tracers(images):
    model = seeded(lambda: BasicBlock(3, 8)).eval()
    converted = convert(model)
    expected = model(images)
    torch._dynamo.reset()
    compiled = torch.compile(converted, fullgraph=True, backend="eager")
    program = torch.export.export(converted, (images,))
    for function in (
        compiled,
        program.module(),
        torch.fx.symbolic_trace(converted),
        torch.jit.trace(converted, images),
    ):
        assert_close(function(images), expected, rtol=1e-4, atol=1e-4)
    assert sum(node.target in FUSED for node in program.graph.nodes) == 3


def test_explain():
    rows = [(row.name, row.layers, row.status, row.reason) for row in explain(HandWritten().eval()).rows]
    call = "one conv2d_pool2d(activation='relu', pool='{}')".format
    assert rows == [
        ("conv1 to max_pool2d()", ("Conv2d", "ReLU", "MaxPool2d"), "replaceable", call("max")),
        ("conv2 to avg_pool2d()", ("Conv2d", "ReLU", "Dropout", "AvgPool2d"), "replaceable", call("avg")),
        ("conv3 to relu_()", ("Conv2d", "ReLU"), "replaceable", call("none")),
        ("fc", ("Linear",), "replaceable", "calls fastvision.ops.linear"),
    ]
    rows = explain(convert(BasicBlock(3, 3)).eval()).rows
    assert [(row.name, row.status) for row in rows] == [("conv1 to relu", "replaced"), ("conv2 to bn2", "replaced")]
    rows = explain(convert(InvertedResidual())).rows
    assert (rows[-1].name, rows[-1].status) == ("expand to act", "replaced")


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.linear, self.activation = nn.Conv2d(3, 4, 3), nn.Linear(144, 5), nn.ReLU()

    def forward(self, images):
        features = torch.flatten(F.max_pool2d(F.relu(self.convolution(images)), 2), 1)
        return self.activation(self.linear(features))


CHANGES_OF_DIRECT_CALLS = {
    "weight replaced": lambda m: setattr(m.linear, "weight", nn.Parameter(torch.ones(5, 144))),
    "forward replaced": lambda m: setattr(m.linear, "forward", lambda input: input[:, :5]),
    "class replaced": lambda m: setattr(m.linear, "__class__", nn.Identity),
    "layer replaced": lambda m: setattr(m, "activation", nn.Sigmoid()),
    "hook": lambda m: m.linear.register_forward_hook(lambda module, arguments, result: result + 1),
}


@pytest.mark.parametrize("change", CHANGES_OF_DIRECT_CALLS.values(), ids=CHANGES_OF_DIRECT_CALLS)
def test_layers_that_are_called_directly_are_never_stale(change):
    model, images = Classifier(), torch.randn(2, 3, 14, 14)
    converted = convert(model)
    before = converted(images)
    assert_close(before, model(images))
    assert modules_called(converted, images) == [converted]
    assert operators_called(converted, images)[-1] is torch.ops.fastvision.linear.default  # with the ReLU
    change(model)
    change(converted)
    after = converted(images)
    assert_close(after, model(images))
    assert after.shape != before.shape or not torch.allclose(after, before, atol=1e-3)


class ByKeyword(Classifier):
    def forward(self, images):
        features = F.max_pool2d(input=F.relu(input=self.convolution(images)), kernel_size=2)
        return self.activation(self.linear(input=torch.flatten(input=features, start_dim=1)))


def test_arguments_that_are_given_by_keyword():
    model, images = ByKeyword(), torch.randn(2, 3, 14, 14)
    converted = convert(model)
    for _ in range(2):
        assert_close(converted(images), model(images))
    explain(converted)


def test_successive_operators_are_one_call():
    converted = convert(Classifier())
    with native_sequences() as lengths:
        converted(torch.randn(2, 3, 14, 14))
    assert lengths == [3]


def test_a_value_with_two_users_ends_a_sequence():
    class Twice(Classifier):
        def forward(self, images):
            features = F.relu(self.convolution(images))
            return features.flatten(1), self.activation(self.linear(F.max_pool2d(features, 2).flatten(1)))

    model, images = Twice(), torch.randn(2, 3, 14, 14)
    converted = convert(model)
    with native_sequences() as lengths:
        assert_close(converted(images), model(images))
    assert lengths == [1, 1, 3]


def test_an_exported_forward_keeps_dense_layers_as_stock():
    """Whoever reads a graph does with them as they like."""
    converted, images = convert(Classifier()).eval(), torch.randn(2, 3, 14, 14)
    converted(images)
    graph = torch.export.export(converted, (images,), strict=False).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called[-2:] == [torch.ops.aten.linear.default, torch.ops.aten.relu.default]
