"""Forwards that are given lists of tensors, as those of DenseNet's layers are, and that ask what they are given."""

import pytest
import torch
import torch.nn.functional as F
from convert_models import fused_calls, seeded, training_step
from torch import Tensor, nn
from torch.testing import assert_close

from fastvision.convert import convert, explain

pytestmark = pytest.mark.usefixtures("one_thread")


class Layer(nn.Module):
    """A tensor or a list of them, by isinstance; a branch that raises, and one that is never reached."""

    def __init__(self, inputs):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 16, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.memory_efficient = False

    def bottleneck(self, features):
        return self.conv1(self.relu(self.norm1(torch.cat(features, 1))))

    def checkpointed(self, features):
        return torch.utils.checkpoint.checkpoint(self.bottleneck, features)

    def forward(self, input: Tensor) -> Tensor:
        features = [input] if isinstance(input, Tensor) else input
        if self.memory_efficient and input[0].requires_grad:
            if torch.jit.is_scripting():
                raise RuntimeError("not in scripts")
            y = self.checkpointed(features)
        else:
            y = self.bottleneck(features)
        return self.conv2(self.relu(self.norm2(y)))


class Block(nn.ModuleDict):
    def __init__(self):
        super().__init__({f"layer{i}": Layer(3 + 4 * i) for i in range(3)})

    def forward(self, images):
        features = [images]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_layers_that_are_given_lists(images):
    model = seeded(Block)
    converted = convert(model)
    for mode in (False, True, False):
        results = [training_step(module.train(mode), images) for module in (converted, model)]
        assert_close(*results, rtol=1e-3, atol=1e-4)
    # Of each layer a run and a convolution that is faster alone.
    assert fused_calls(converted, images) == 6
    layer = converted["layer1"]
    assert fused_calls(layer, [images, images[:, :1].expand(-1, 4, -1, -1)]) == 2
    assert fused_calls(converted["layer0"], images) == 2
    assert_close(layer([torch.cat([images, images[:, :1]], 1), images]), model["layer1"](
        [torch.cat([images, images[:, :1]], 1), images]), rtol=1e-3, atol=1e-4)  # fmt: skip


def test_lists_of_other_lengths_and_other_things(images):
    model = seeded(lambda: Layer(6)).eval()
    converted = convert(model)
    whole = torch.cat([images, images], 1)
    for given in (whole, [whole], [images, images], (images, images), [images, images[:, :2], images[:, :1]]):
        for _ in range(2):
            assert_close(converted(given), model(given), rtol=1e-4, atol=1e-5)
    assert fused_calls(converted, [images, images]) == 2
    assert fused_calls(converted, (images, images)) == 1  # a tuple is not traced
    with pytest.raises(TypeError):
        converted([images, None])
    with pytest.raises(ValueError, match="non-empty list"):
        converted([])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)  # which gains nothing alone


class Appends(Net):
    def forward(self, x):
        if isinstance(x, list):
            x.append(F.relu(self.conv(x[0])))
            return x[-1]
        return F.relu(self.conv(x))


class Replaces(Net):
    def forward(self, x):
        if isinstance(x, list):
            x[0] = F.relu(self.conv(x[0]))
            return x[0]
        return F.relu(self.conv(x))


class Returns(Net):
    def forward(self, x):
        if isinstance(x, list):
            return F.relu(self.conv(x[0])), x
        return F.relu(self.conv(x))


@pytest.mark.parametrize("kind", [Appends, Replaces, Returns])
def test_what_becomes_of_a_list_is_kept(kind, images):
    model = seeded(kind).eval()
    converted = convert(model)
    assert fused_calls(converted, images) == 1
    given, expected = [images], [images]
    result, stock = converted(given), model(expected)
    assert_close(result, stock)
    assert len(given) == len(expected)
    assert_close(given[0], expected[0])
    assert fused_calls(converted, [images]) == 0
    if kind is Returns:
        assert result[1] is given


class AsksForOthers(Net):
    def forward(self, x):
        return F.relu(self.conv(x)) if isinstance(x, nn.Parameter) else self.conv(x)


class AsksOfResults(Net):
    def forward(self, x):
        y = self.conv(x)
        return F.relu(y) if isinstance(y, Tensor) else y


class AsksOfChanged(Net):
    def forward(self, x):
        x = self.conv(x)
        return F.relu(x) if isinstance(x, Tensor) else x


@pytest.mark.parametrize("kind", [AsksForOthers, AsksOfResults, AsksOfChanged])
def test_other_questions_are_not_traced(kind, images):
    model = seeded(kind)
    assert type(convert(model)) is kind
    assert explain(model).rows[0].reason == f"is called by {kind.__name__}.forward, which calls isinstance"
