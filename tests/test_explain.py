"""fastvision.explain: what is replaced, what is not, and why."""

import copy

import pytest
import torch
from convert_models import Net, seeded
from torch import nn
from torch.nn.utils import parametrizations

from fastvision.convert import Report, Row, convert, explain
from fastvision.nn import ConvReLU2d, Reparameterize

CONVERTED = """\
name                        layers                                   status        why
--------------------------  ---------------------------------------  ------------  ------------------------------------------------------------------------------------------------------------
features.0.0 to features.1  Conv2d + BatchNorm2d + ReLU + MaxPool2d  replaced      one conv2d_batch_norm_pool2d(activation='relu', pool='max'); with gradients for inputs of 5 elements or more
features.2 to features.4    Conv2d + ReLU + AvgPool2d                replaced      one conv2d_pool2d(activation='relu', pool='avg')
head.0                      Flatten                                  not replaced  is not a layer that is fused
head.1                      Linear                                   replaced      calls fastvision.ops.linear
stem                        Conv2d                                   not replaced  is followed by Sequential, which is not a layer that is fused
3 replaced, 0 replaceable, 2 not replaced"""  # noqa: E501

TRAINING = """\
name                      layers                     status        why
------------------------  -------------------------  ------------  -------------------------------------------------------------
features.0.0              Conv2d                     replaceable   calls fastvision.ops.conv2d_pool2d
features.0.1              BatchNorm2d                not replaced  is in training mode; it is folded in eval mode
features.0.2              ReLU                       not replaced  does not continue a run that starts with a Conv2d
features.1                MaxPool2d                  replaceable   calls fastvision.ops.max_pool2d
features.2 to features.4  Conv2d + ReLU + AvgPool2d  replaceable   one conv2d_pool2d(activation='relu', pool='avg')
head.0                    Flatten                    not replaced  is not a layer that is fused
head.1                    Linear                     replaceable   calls fastvision.ops.linear
stem                      Conv2d                     not replaced  is followed by Sequential, which is not a layer that is fused
0 replaced, 4 replaceable, 4 not replaced"""  # noqa: E501


def test_a_converted_model_as_a_table():
    assert str(explain(convert(seeded(Net)).eval())) == CONVERTED


def test_a_stock_model_in_training_as_a_table():
    assert str(explain(seeded(Net))) == TRAINING


def test_rows_for_programs():
    report = explain(convert(nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2), nn.Tanh())))
    assert report == Report(
        (
            Row("0 to 1", ("Conv2d", "MaxPool2d"), "replaced", "one conv2d_pool2d(activation='none', pool='max')"),
            Row("2", ("Tanh",), "not replaced", "is not a layer that is fused"),
        )
    )
    assert report.count("replaced") == report.count("not replaced") == 1


def with_hook(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


def with_forward(layer):
    layer.forward = torch.relu
    return layer


class OwnConv2d(nn.Conv2d):
    pass


def conv():
    """One that gains nothing alone."""
    return nn.Conv2d(3, 3, 1)


# Layers, and why the first that is not fused is not.
REASONS = {
    "nothing follows": ([conv()], "is not followed by BatchNorm2d, ReLU or pooling"),
    "a convolution follows": ([conv(), conv()], "is not followed by BatchNorm2d, ReLU or pooling"),
    "another layer follows": ([conv(), nn.Tanh()], "is followed by Tanh, which is not a layer that is fused"),
    "no convolution": ([nn.ReLU()], "does not continue a run that starts with a Conv2d"),
    "norm too late": (
        [conv(), nn.ReLU(), nn.BatchNorm2d(3).eval()],
        "does not continue a run that starts with a Conv2d",
    ),
    "relu after the average": (
        [conv(), nn.AvgPool2d(2), nn.ReLU()],
        "does not continue a run that starts with a Conv2d",
    ),
    "second relu": ([conv(), nn.ReLU(), nn.ReLU()], "does not continue a run that starts with a Conv2d"),
    "hooks": ([with_hook(conv()), nn.ReLU()], "has hooks, which a fused call would leave out"),
    "hooks on the next": (
        [conv(), with_hook(nn.ReLU())],
        "is followed by ReLU, which has hooks, which a fused call would leave out",
    ),
    "own forward": (
        [conv(), nn.MaxPool2d(2), with_forward(nn.ReLU())],
        "has a forward of its own, set on the instance",
    ),
    "no statistics": (
        [conv(), nn.BatchNorm2d(3, track_running_stats=False).eval()],
        "is followed by BatchNorm2d, which keeps no running statistics to fold",
    ),
    "dropout": ([conv(), nn.ReLU(), nn.Dropout()], "is in training mode; it does nothing in eval mode"),
    "indices": (
        [conv(), nn.MaxPool2d(2, return_indices=True)],
        "is followed by MaxPool2d, which returns indices, which the fused operator does not",
    ),
    "dilated pool": (
        [conv(), nn.ReLU(), nn.MaxPool2d(2, dilation=2)],
        "has a dilated window, which the fused operator has not",
    ),
    "subclass": ([OwnConv2d(3, 3, 3), nn.ReLU()], "is a subclass of Conv2d, which may compute something else"),
    "parametrized": ([parametrizations.weight_norm(conv()), nn.ReLU()], "has parametrizations"),
    "lazy": ([nn.LazyConv2d(3, 3), nn.ReLU()], "is lazy; convert after its first forward"),
    "fused module": ([ConvReLU2d(3, 3, 3), nn.MaxPool2d(2)], "is fused already"),
    "fused sample": ([Reparameterize(), nn.ReLU()], "is fused already"),
    "half precision": (
        [conv().half(), nn.BatchNorm2d(3).eval().half()],
        "is in torch.float16: folding BatchNorm2d would round the weights once more",
    ),
}


@pytest.mark.parametrize(("layers", "reason"), REASONS.values(), ids=REASONS)
def test_why_a_layer_is_not_replaced(layers, reason):
    rows = explain(convert(nn.Sequential(*layers))).rows
    assert next(row.reason for row in rows if row.status == "not replaced") == reason


@pytest.mark.parametrize("between", [(), (nn.Dropout(),), (nn.Tanh(),)])
def test_a_relu_that_the_linear_does(between):
    model = nn.Sequential(nn.Linear(4, 3), *between, nn.ReLU()).eval()
    hindered = copy.deepcopy(model)
    hindered[0].register_forward_hook(lambda *_: None)
    done = not between or type(between[0]) is nn.Dropout
    for net, expected in ((model, done), (hindered, False)):
        for report, status in ((explain(net), "replaceable"), (explain(convert(net)), "replaced")):
            row = report.rows[-1]
            assert row.layers == ("ReLU",)
            assert row.status == (status if expected else "not replaced")
            assert row.reason.startswith("is done by the linear" if expected else "does not continue")


def test_a_layer_alone():
    assert explain(conv()).rows == (
        Row("(model)", ("Conv2d",), "not replaced", "has no layers around it to be fused with"),
    )


def test_a_stock_sequential_around_a_converted_one():
    model = nn.Sequential(convert(nn.Sequential(conv(), nn.ReLU())), nn.MaxPool2d(2))
    assert [(row.name, row.status) for row in explain(model).rows] == [
        ("0.0 to 0.1", "replaced"),
        ("1", "replaceable"),
    ]
    assert [(row.name, row.status) for row in explain(convert(model)).rows] == [("0.0 to 1", "replaced")]


def test_shared_layers_have_one_row_each():
    layer, block = conv(), nn.Sequential(conv(), nn.ReLU())
    model = nn.ModuleDict(
        {
            "first": nn.Sequential(block, nn.MaxPool2d(2)),
            "block": block,
            "list": nn.ModuleList([layer]),
            "again": nn.ModuleList([layer]),
        }
    )
    assert [row.name for row in explain(model).rows] == ["first.0.0 to first.1", "list.0"]
