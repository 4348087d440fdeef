"""fastvision.convert, revert and explain: a converted model is the same model, only faster."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from convert_models import FUSED, Net, conv_norm_relu_pool, fused_calls, seeded
from torch import nn
from torch.testing import assert_close

from fastvision.convert import convert, explain, revert


def assert_same_computation(model, other, input, seed=3):
    """Outputs, gradients and buffers of a training step agree."""
    results = []
    for module in (model, other):
        torch.manual_seed(seed)
        leaf = input.clone().requires_grad_()
        output = module(leaf)
        gradients = torch.autograd.grad(output.square().sum(), [leaf, *module.parameters()])
        results.append((output, *gradients, *(buffer.clone() for buffer in module.buffers())))
    assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


RUNS = {
    "relu": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU()],
    "relu in place, max": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)],
    "relu, avg": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False)],
    "max": lambda: [nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2, 1, ceil_mode=True)],
    "avg": lambda: [nn.Conv2d(3, 8, 3, bias=False), nn.AvgPool2d((2, 3))],
    "max, relu": lambda: [nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True)],
    "dropouts, identity": lambda: [
        nn.Conv2d(3, 8, 3), nn.Identity(), nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2), nn.Dropout2d()
    ],
    "convolution options": lambda: [nn.Conv2d(3, 9, (3, 2), (2, 1), 1, (1, 2), 3, padding_mode="reflect"), nn.ReLU()],
    "same": lambda: [nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)],
}  # fmt: skip
NORM_RUNS = {
    "norm": lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)],
    "norm, relu, max": lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)],
    "norm, avg, no bias": lambda: [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, 0.1), nn.AvgPool2d(2)],
    "norm without weights": lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU()],
}


@pytest.mark.parametrize("layers", [*RUNS.values(), *NORM_RUNS.values()], ids=[*RUNS, *NORM_RUNS])
def test_a_run_is_one_operator_and_computes_the_same(layers):
    model = seeded(lambda: nn.Sequential(*layers(), nn.Flatten()))
    converted = convert(model)
    input = torch.randn(2, 3, 12, 13)
    for mode in (True, False, True):
        assert_same_computation(converted.train(mode), model.train(mode), input)
    assert fused_calls(converted.eval(), input) == 1
    assert fused_calls(model.eval(), input) == 0


@pytest.mark.filterwarnings("ignore:dropout2d. Received a 3D input")  # stock's
@pytest.mark.parametrize("layers", RUNS.values(), ids=RUNS)
def test_unbatched_images(layers):
    model = nn.Sequential(*layers()).eval()
    input = torch.randn(3, 12, 13)
    assert_close(convert(model)(input), model(input))


@pytest.mark.parametrize("layers", NORM_RUNS.values(), ids=NORM_RUNS)
def test_batch_norm_refuses_unbatched_images_as_stock(layers):
    converted = convert(nn.Sequential(*layers()).eval())
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        converted(torch.randn(3, 12, 13))


@pytest.fixture
def net():
    return seeded(Net)


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_converts_at_any_depth_and_across_nested_sequentials(net, images):
    converted = convert(net)
    for mode in (True, False):
        assert_same_computation(converted.train(mode), net.train(mode), images)
    assert fused_calls(converted, images) == 2


def test_the_original_is_untouched(net, images):
    before = pickle.dumps(net)
    converted = convert(net)
    assert converted is not net
    assert pickle.dumps(net) == before
    assert not {id(p) for p in net.parameters()} & {id(p) for p in converted.parameters()}
    assert all(not type(module).__name__.startswith("Fused") for module in net.modules())


def test_in_place_keeps_modules_and_parameters(net):
    modules, parameters = list(net.modules()), list(net.parameters())
    assert convert(net, inplace=True) is net
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert type(net.features).__name__ == "FusedSequential"
    assert type(net.head).__name__ == "FusedSequential"  # its Linear is called directly


def test_an_optimizer_made_before_steps_the_converted_model(net, images):
    other = copy.deepcopy(net)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in (net, other)]
    convert(net, inplace=True)
    for _ in range(2):
        for model, optimizer in zip((net, other), optimizers, strict=True):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    assert_close(net.state_dict(), other.state_dict())


def test_state_dict_both_ways(net, images):
    converted = convert(net)
    assert list(converted.state_dict()) == list(net.state_dict())
    assert [name for name, _ in converted.named_modules()] == [name for name, _ in net.named_modules()]
    checkpoint = seeded(Net, seed=9).state_dict()
    converted.load_state_dict(checkpoint)
    net.load_state_dict(converted.state_dict())
    assert_close(net.state_dict(), checkpoint, rtol=0, atol=0)
    assert_close(converted.eval()(images), net.eval()(images))


def test_revert_is_the_inverse(net, images):
    expected = net.eval()(images)
    converted = convert(net)
    converted(images)
    assert revert(converted) is converted
    assert [type(module) for module in converted.modules()] == [type(module) for module in net.modules()]
    assert [vars(module).keys() for module in converted.modules()] == [vars(module).keys() for module in net.modules()]
    assert torch.equal(converted(images), expected)


def test_converting_twice_changes_nothing(net):
    once = convert(net)
    assert [type(m) for m in convert(once).modules()] == [type(m) for m in once.modules()]


def test_copies_and_pickles(net, images):
    converted = convert(net).eval()
    expected = converted(images)
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    clones = [copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), torch.load(file, weights_only=False)]
    for clone in clones:
        assert torch.equal(clone(images), expected)
        assert fused_calls(clone, images) == 2
        for parameter in clone.parameters():
            parameter.data.zero_()
        assert not clone(images).any()
    assert torch.equal(converted(images), expected)
    assert type(revert(clones[1]).features) is nn.Sequential


class Named(nn.Sequential):
    """Keeps the forward of nn.Sequential."""

    def __init__(self, channels):
        super().__init__(nn.Conv2d(3, channels, 3), nn.ReLU())
        self.channels = channels


def test_subclasses_that_keep_the_forward(images):
    model = Named(4)
    converted = convert(model)
    assert isinstance(converted, Named)
    assert converted.channels == 4
    clone = pickle.loads(pickle.dumps(converted))
    assert fused_calls(clone, images) == 1
    assert type(revert(clone)) is Named
    assert type(revert(converted)) is Named


class Rebuilt(Named):
    """Says itself how it is pickled."""

    def __reduce__(self):
        return Rebuilt, (self.channels,)


def test_subclasses_with_a_pickle_of_their_own():
    clone = pickle.loads(pickle.dumps(convert(Rebuilt(4))))
    assert type(clone) is Rebuilt
    assert clone.channels == 4


class Backwards(nn.Sequential):
    def forward(self, input):
        for layer in reversed(list(self)):
            input = layer(input)
        return input


class Skipping(nn.Sequential):
    def __iter__(self):
        return iter([self[0]])


@pytest.mark.parametrize("sequential", [Backwards, Skipping])
def test_subclasses_with_a_forward_of_their_own_are_left_alone(sequential, images):
    model = sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    converted = convert(model)
    assert type(converted) is sequential
    assert torch.equal(converted(images), model(images))


def test_sequentials_with_a_forward_set_on_the_instance_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    model.forward = lambda input: model[0](input)
    assert type(convert(model)) is nn.Sequential


def test_sequentials_without_runs_are_left_alone():
    for layers in (
        [nn.Conv2d(3, 3, 3)],
        [nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten()],
        [],
        [nn.LazyConv2d(3, 3), nn.ReLU()],
    ):
        assert type(convert(nn.Sequential(*layers))) is nn.Sequential


def test_lists_of_layers_keep_working(images):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()))
    converted = convert(model)
    assert len(converted) == 4
    assert isinstance(converted[1], nn.ReLU)
    assert_close(converted[:3](images), model[:3](images))
    assert fused_calls(converted[:2], images) == 1
    assert fused_calls(converted, images) == 2

    changes = [
        lambda m: m.append(nn.MaxPool2d(2)),
        lambda m: m.insert(1, nn.BatchNorm2d(4).eval()),
        lambda m: m.__setitem__(2, nn.Tanh()),
        lambda m: m.__delitem__(-1),
        lambda m: m.add_module("last", nn.AvgPool2d(2)),
    ]
    for change in changes:
        change(model)
        change(converted)
        assert_close(converted(images), model(images))


def test_shared_layers(images):
    convolution, activation = nn.Conv2d(3, 3, 3), nn.ReLU()
    model = nn.Sequential(convolution, activation, convolution, activation)
    converted = convert(model)
    assert converted[0] is converted[2]
    assert fused_calls(converted, images) == 2
    assert_same_computation(converted, model, images)


def test_compiles_as_one_graph(net, images):
    torch._dynamo.reset()
    converted = convert(net)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    for mode in (True, False, True):
        net.train(mode)
        converted.train(mode)
        assert_same_computation(compiled, net, images)


def test_exports_with_a_free_batch_size(net, images):
    converted = convert(net).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(converted, (images,), dynamic_shapes=({0: batch},))
    assert sum(node.target in FUSED for node in program.graph.nodes) == 2
    input = torch.randn(1, 3, 16, 16)
    assert_close(program.module()(input), net.eval()(input))


def test_exports_batch_norm_folded_for_any_batch_size():
    # Images so small that a call in Python would fold for some batch sizes only.
    model = nn.Sequential(nn.Conv2d(64, 8, 3, padding=1), nn.BatchNorm2d(8)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(convert(model), (torch.randn(2, 64, 3, 3),), dynamic_shapes=({0: batch},))
    assert any(node.target in FUSED for node in program.graph.nodes)
    input = torch.randn(9, 64, 3, 3)
    assert_close(program.module()(input), model(input))


def test_symbolic_and_torchscript_tracing_see_the_stock_layers(net, images):
    converted = convert(net).eval()
    graph = torch.fx.symbolic_trace(converted)
    assert "features.3" in {node.target for node in graph.graph.nodes}
    assert_close(graph(images), net.eval()(images))
    assert "fastvision::" not in str(torch.jit.trace(converted, images).inlined_graph)


def test_gradients_of_single_images_by_function_transforms(net, images):
    def gradients(model):
        def loss(parameters, image):
            return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

        return torch.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), images)

    assert_close(gradients(convert(net).eval()), gradients(net.eval()), rtol=1e-4, atol=1e-4)


def test_autocast(images):
    model = conv_norm_relu_pool().eval()
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = convert(model)(images), model(images)
    assert output.dtype == expected.dtype == torch.bfloat16
    assert_close(output, expected, rtol=0.03, atol=0.03)


def test_distributed_data_parallel(net, images):
    other = copy.deepcopy(net)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(convert(net))
        parallel(images).square().sum().backward()
    finally:
        dist.destroy_process_group()
    other(images).square().sum().backward()
    gradients = [[p.grad for p in model.parameters()] for model in (parallel, other)]
    assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_example_inputs_are_compared_and_leave_no_trace(net, images):
    before = copy.deepcopy(net.state_dict())
    converted = convert(net, images)
    assert converted.training
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert_close(converted.state_dict(), before, rtol=0, atol=0)
    assert convert(net, (images,), inplace=True) is net


def test_example_inputs_that_give_another_output(images):
    class CountsRuns(nn.Sequential):
        """Not what stock does with the same input twice."""

        runs = 0

        def __call__(self, input):
            self.runs += 1
            return super().__call__(input) * self.runs

    model = CountsRuns(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(RuntimeError, match="example_inputs: output 0 of the converted model differs"):
        convert(model, images, inplace=True)
    assert type(model) is CountsRuns


def test_arguments_are_checked():
    for function in (convert, revert, explain):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
            function([nn.ReLU()])
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    model.scratch = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match=r"model: Sequential can't be copied .* or inplace=True"):
        convert(model)
    assert type(convert(model, inplace=True)).__name__ == "FusedSequential"
