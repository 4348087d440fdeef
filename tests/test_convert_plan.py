"""A converted model follows every change of its layers: modes, hooks, options, weights."""

import copy

import pytest
import torch
from convert_models import (
    Net,
    OperatorCounter,
    conv_norm_relu_pool,
    fused_calls,
    modules_called,
    native_sequences,
    operators_called,
    seeded,
    training_step,
)
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from fastvision._native import _C
from fastvision.convert import convert, explain


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def use_weight_norm(model):
    parametrizations.weight_norm(model[0])
    model[0].parametrizations.weight.original0.data.mul_(2)


def remove_statistics(model):
    model[1].running_mean = model[1].running_var = None


CHANGES = {
    "conv stride": lambda m: setattr(m[0], "stride", (2, 2)),
    "conv padding": lambda m: setattr(m[0], "padding", (2, 2)),
    "conv dilation": lambda m: setattr(m[0], "dilation", (2, 2)),
    "conv padding_mode": lambda m: setattr(m[0], "padding_mode", "circular"),
    "weight data": lambda m: m[0].weight.data.mul_(2),
    "weight replaced": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(8, 3, 3, 3))),
    "bias removed": lambda m: setattr(m[0], "bias", None),
    "running_mean data": lambda m: m[1].running_mean.data.add_(1),
    "running_var replaced": lambda m: setattr(m[1], "running_var", torch.ones(8)),
    "statistics removed": remove_statistics,
    "norm weight data": lambda m: m[1].weight.data.fill_(3),
    "norm bias data": lambda m: m[1].bias.data.fill_(3),
    "norm weight removed": lambda m: setattr(m[1], "weight", None),
    "eps": lambda m: setattr(m[1], "eps", 0.5),
    "norm training": lambda m: m[1].train(),
    "pool kernel_size": lambda m: setattr(m[3], "kernel_size", 3),
    "pool stride": lambda m: setattr(m[3], "stride", 1),
    "pool padding": lambda m: setattr(m[3], "padding", 1),
    "pool dilation": lambda m: setattr(m[3], "dilation", 2),
    "pool ceil_mode": lambda m: setattr(m[3], "ceil_mode", True),
    "forward replaced": lambda m: setattr(m[2], "forward", lambda input: input - 1),
    "class replaced": lambda m: setattr(m[2], "__class__", nn.Tanh),
    "double": lambda m: m.double(),
    "parametrized": use_weight_norm,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_plan_is_never_stale(change):
    model = conv_norm_relu_pool().eval()
    converted = convert(model)
    input = torch.randn(2, 3, 13, 13)
    before = converted(input)
    assert fused_calls(converted, input) == 1
    change(model)
    change(converted)
    input = input.to(model[0].weight.dtype)
    after = converted(input)
    assert_close(after, model(input), rtol=1e-4, atol=1e-5)
    assert after.dtype != before.dtype or after.shape != before.shape or not torch.allclose(after, before, atol=1e-3)


def test_average_pool_options_are_never_stale(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(3, padding=1))
    converted = convert(model)
    for name, value in (
        ("kernel_size", 2),
        ("stride", 2),
        ("count_include_pad", False),
        ("padding", 0),
        ("divisor_override", 5),
    ):
        before = converted(images)
        for module in (model, converted):
            setattr(module[2], name, value)
        after = converted(images)
        assert_close(after, model(images))
        assert after.shape != before.shape or not torch.equal(after, before)


def test_batch_norm_in_train_and_eval_mode(images):
    model = conv_norm_relu_pool()
    converted = convert(model)
    for mode in (True, False, True, False):
        model.train(mode)
        converted.train(mode)
        assert fused_calls(converted, images) == 1  # in training of the convolution alone
        assert (nn.BatchNorm2d in map(type, modules_called(copy.deepcopy(converted), images))) == mode
        model(images)
        assert_close(converted.state_dict(), model.state_dict())
        assert_close(converted(images), model(images))
        assert_close(converted.state_dict(), model.state_dict())


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
def test_dropout_in_train_and_eval_mode(dropout, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), dropout(), nn.MaxPool2d(2))
    converted = convert(model)
    for mode in (False, True, False):
        outputs = []
        for module in (model.train(mode), converted.train(mode)):
            torch.manual_seed(4)
            outputs.append(module(images))
        assert_close(*outputs)
        assert torch.equal(converted(images), converted(images)) is not mode


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Identity])
def test_layers_that_do_nothing_are_left_out_while_they_do(layer, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Tanh(), layer()).eval()
    converted = convert(model)
    expected = model(images)
    assert_close(converted(images), expected)
    calls = []
    handle = converted[3].register_forward_hook(lambda *_: calls.append(1))
    assert_close(converted(images), expected)
    assert calls == [1]
    handle.remove()
    converted.train()
    assert torch.equal(converted(images), converted(images)) is (layer is nn.Identity)
    converted.eval()[3].forward = torch.neg
    assert_close(converted(images), -expected)


CHANGES_OF_DIRECT_CALLS = {
    "weight replaced": lambda m: setattr(m[1], "weight", nn.Parameter(torch.ones(5, 768))),
    "linear's forward": lambda m: setattr(m[1], "forward", lambda input: input[:, :5]),
    "linear's class": lambda m: setattr(m[1], "__class__", nn.Identity),
    "flatten's option": lambda m: setattr(m[0], "start_dim", 2),
    "relu's class": lambda m: setattr(m[2], "__class__", nn.Tanh),
    "layers exchanged": lambda m: m.__setitem__(2, nn.Sigmoid()),
    "layer appended": lambda m: m.append(nn.Tanh()),
}


@pytest.mark.parametrize("change", CHANGES_OF_DIRECT_CALLS.values(), ids=CHANGES_OF_DIRECT_CALLS)
def test_layers_that_are_called_directly_are_never_stale(change, images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU())
    converted = convert(model)
    before = converted(images)
    assert_close(before, model(images))
    assert modules_called(converted, images) == [converted]
    assert operators_called(converted, images)[-1] is torch.ops.fastvision.linear.default  # with the ReLU
    images = images.reshape(2, 1, 768) if change is CHANGES_OF_DIRECT_CALLS["flatten's option"] else images
    change(model)
    change(converted)
    after = converted(images)
    assert_close(after, model(images))
    assert after.shape != before.shape or not torch.allclose(after, before, atol=1e-3)


def test_weights_in_fewer_bits_after_a_call(images):
    converted = convert(nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU())).eval()
    results = []
    with torch.no_grad():
        for dtype in (None, torch.int8, None):
            converted[1].weight_dtype = dtype
            results.append(converted(images))
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])
    assert_close(results[0], results[1], rtol=0, atol=0.05)


def test_successive_operators_are_one_call(images):
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 5), nn.ReLU(), nn.Dropout()]
    converted = convert(nn.Sequential(*layers, nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)).eval())
    with native_sequences() as lengths:
        converted(images)
    assert lengths == [4, 1]


def conv_norm(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU6()


def test_batch_norm_is_in_the_sequence_without_gradients(images):
    model = seeded(lambda: nn.Sequential(*conv_norm(3, 4), *conv_norm(4, 5), nn.MaxPool2d(2), nn.Flatten()))
    for buffer in model.buffers():
        buffer.copy_(torch.rand_like(buffer.float()) + 0.5)
    converted = convert(model.eval())
    with torch.no_grad(), native_sequences() as lengths:
        converted(images)
    assert lengths == [4]
    with torch.no_grad():
        assert_close(converted(images), model(images), rtol=1e-4, atol=1e-4)
        model[1].running_mean += 1  # buffers are read at each call
        converted[1].running_mean += 1
        assert_close(converted(images), model(images), rtol=1e-4, atol=1e-4)
        converted[1].running_mean.fill_(0)
        converted[1].running_mean = torch.ones(4, requires_grad=True) * 3  # and replaced
        model[1].running_mean = torch.ones(4) * 3
        assert_close(converted(images), model(images), rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="expected 4D input"):
            converted(images[0])
        del converted[1].running_mean
        converted[1].running_mean = model[1].running_mean  # an attribute, no buffer
        assert_close(converted(images), model(images), rtol=1e-4, atol=1e-4)
        converted[1].running_mean = None
        with pytest.raises((RuntimeError, ValueError)):  # what stock makes of that
            converted(images)


def test_gradients_through_batch_norm_in_a_sequence(images):
    model = seeded(lambda: nn.Sequential(*conv_norm(3, 4), *conv_norm(4, 5))).eval()
    converted = convert(model)
    with torch.no_grad():
        converted(images)
    assert_close(converted(images[:, :, :12, :12]), model(images[:, :, :12, :12]), rtol=1e-4, atol=1e-4)
    assert_close(training_step(converted, images), training_step(model, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", range(3))
def test_hooks_of_layers_that_are_called_directly(layer, images):
    converted = convert(nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU()))
    expected, calls = converted(images), []
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        handle = getattr(converted[layer], register)(lambda *_: calls.append(1))
        result = converted(images.clone().requires_grad_())
        result.sum().backward()
        handle.remove()
        assert_close(result, expected)
        assert calls == [1]
        calls.clear()


def test_a_relu_that_is_in_place_or_not(images):
    converted = convert(nn.Sequential(nn.ReLU(), nn.Linear(16, 5)))
    for inplace in (False, True):
        converted[0].inplace = inplace
        input = images.clone()
        converted(input)
        assert (input.min() >= 0) == inplace


@pytest.mark.parametrize("arguments", [((1,), (), (), ()), ((), (), ((1, (), ()),), ()), ((), (), (), ((1,),))])
def test_records_of_the_wrong_size(arguments):
    with pytest.raises(ValueError, match="unchanged: expected a tuple of"):
        _C.unchanged(*arguments)


def test_batch_norm_that_does_not_fit_raises_as_stock(images):
    converted = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(1)).eval())
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 1"):
        converted(images)


@pytest.mark.parametrize("groups", [1, 4])
def test_batch_norm_with_gradients_is_only_folded_where_that_is_less_work(groups):
    options = {"padding": 2, "dilation": 2, "groups": groups}  # nothing that is faster alone
    model = nn.Sequential(nn.Conv2d(64, 64, 3, **options), nn.BatchNorm2d(64), nn.ReLU()).eval()
    converted = convert(model)
    # 576 weights per output channel: folded from 36 pixels on; a quarter of both in each of 4 groups.
    folded = 6 if groups == 1 else 3
    for shape, calls in (((1, folded, folded), 1), ((1, folded, folded - 1), 0), ((0, 6, 6), 0)):
        batch, height, width = shape
        input = torch.randn(batch, 64, height, width)
        with OperatorCounter() as counter:
            output = converted(input)
        assert counter.fused == calls
        assert_close(output, model(input))
        assert fused_calls(converted, input) == 1


def test_batch_norm_with_half_of_its_statistics_raises_as_stock(images):
    for name in ("running_mean", "running_var"):
        converted = convert(conv_norm_relu_pool().eval())
        converted(images)
        setattr(converted[1], name, None)
        with pytest.raises(RuntimeError, match=f"{name} must be defined in evaluation mode"):
            converted(images)


def test_batch_norm_in_half_precision_is_not_folded(images):
    model = conv_norm_relu_pool().eval().bfloat16()
    converted = convert(model)
    assert torch.equal(converted(images.bfloat16()), model(images.bfloat16()))
    assert explain(converted).rows[0].reason == (
        "is in torch.bfloat16: folding BatchNorm2d would round the weights once more"
    )
    assert fused_calls(converted.float(), images) == 1


HOOKS = {
    "forward": lambda module, seen: module.register_forward_hook(lambda *_: seen.append(1)),
    "forward_pre": lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append(1)),
    "full_backward": lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append(1)),
    "full_backward_pre": lambda module, seen: module.register_full_backward_pre_hook(lambda *_: seen.append(1)),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hooks_on_a_layer_run(layer, register, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    converted = convert(model)
    expected = model(images)
    assert fused_calls(converted, images) == 1
    seen = []
    handle = register(converted[layer], seen)
    output = converted(images.requires_grad_())
    output.sum().backward()
    assert seen == [1]
    assert_close(output, expected)
    handle.remove()
    assert fused_calls(converted, images) == 1


def test_hooks_in_a_new_dictionary_run(images):
    converted = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    converted(images)
    converted[1]._forward_hooks = type(converted[1]._forward_hooks)()
    converted(images)
    seen = []
    converted[1].register_forward_hook(lambda *_: seen.append(1))
    converted(images)
    assert seen == [1]


def test_hooks_on_an_inner_sequential_run(images):
    net = seeded(Net)
    converted = convert(net).eval()
    converted(images)
    shapes = []
    converted.features[0].register_forward_hook(lambda module, arguments, output: shapes.append(output.shape))
    assert_close(converted(images), net.eval()(images))
    assert shapes == [(2, 8, 16, 16)]


def test_a_forward_set_on_an_inner_sequential_runs(images):
    net = seeded(Net).eval()
    converted = convert(net)
    converted(images)
    for model in (net, converted):
        model.features[0].forward = lambda input: input.repeat_interleave(3, 1)[:, :8]
    assert_close(converted(images), net(images))


def test_global_hooks_see_every_layer(images):
    converted = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)))
    names = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: names.append(type(module).__name__))
    try:
        converted(images)
    finally:
        handle.remove()
    assert names == ["Conv2d", "ReLU", "MaxPool2d", "FusedSequential"]
