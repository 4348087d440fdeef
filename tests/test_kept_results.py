"""Functions of torch in a converted forward whose results lie in kept memory."""

import pytest
import torch
import torch.nn.functional as F
from profiled import operators_of
from torch import nn

import fastvision

cat = torch.ops.fastvision.cat
OF_TWO = {torch.ops.fastvision.add: torch.add, torch.ops.fastvision.mul: torch.mul}
of_two = pytest.mark.parametrize(("ours", "stock"), OF_TWO.items(), ids=["add", "mul"])
CASES = {
    "channels": ([(2, 3, 5, 5), (2, 1, 5, 5), (2, 4, 5, 5)], 1),
    "batch": ([(2, 3, 5, 5), (1, 3, 5, 5)], 0),
    "last": ([(2, 3, 5), (2, 3, 1)], -1),
    "one": ([(2, 3)], 1),
    "none_of_a_channel": ([(2, 3, 5, 5), (2, 0, 5, 5)], 1),
    "vectors": ([(3,), (4,)], 0),
    "legacy_empty": ([(2, 3, 5, 5), (0,)], 1),
}


def assert_same(tensors, dim):
    result, expected = cat(tensors, dim), torch.cat(tensors, dim)
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_torch_cat(case, grad):
    shapes, dim = case
    with torch.set_grad_enabled(grad):
        assert_same([torch.randn(shape) for shape in shapes], dim)


def test_other_layouts_and_dtypes():
    with torch.inference_mode():
        images = torch.randn(2, 3, 5, 5)
        last = images.to(memory_format=torch.channels_last)
        assert_same([last, last], 1)
        assert_same([images, last], 1)
        assert_same([images.mT, images], 1)
        assert_same([images[:, :, :1, :1].to(memory_format=torch.channels_last)] * 2, 1)
        assert_same([images, images.double()], 1)
        assert_same([images.int(), images.int()], 1)
        assert_same([images.to(torch.complex64).conj()] * 2, 1)
        assert_same([images.bfloat16()] * 2, 2)
    assert cat([images.to("meta")] * 2, 1).shape == (2, 6, 5, 5)


@pytest.mark.parametrize(
    ("shapes", "dim"), [([(2, 3, 5, 5), (2, 3, 4, 5)], 1), ([(2, 3, 5, 5)] * 2, 4), ([(2, 3), (2, 3, 5)], 1), ([], 0)]
)
def test_raises_what_torch_cat_raises(shapes, dim):
    tensors = [torch.randn(shape) for shape in shapes]
    with torch.inference_mode():
        with pytest.raises(Exception) as expected:  # noqa: PT011, whatever stock raises
            torch.cat(tensors, dim)
        with pytest.raises(expected.type) as raised:
            cat(tensors, dim)
    assert str(raised.value).split("\n")[0] == str(expected.value).split("\n")[0]


def test_gradients_and_transforms():
    first, second = (torch.randn(2, 3, 4, requires_grad=True, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *tensors: cat(tensors, 1), (first, second))
    stacked = torch.vmap(lambda a, b: cat([a, b], 1))(first, second)
    assert torch.equal(stacked, torch.cat([first, second], 2))
    with torch.no_grad():
        assert torch.equal(cat([first, second], 1), torch.cat([first, second], 1))


class Branches(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 3, padding=1), join

    def forward(self, images):
        return self.join([torch.relu(self.left(images)), torch.relu(self.right(images))], dim=1)


@of_two
def test_sums_and_products(ours, stock):
    images = torch.randn(2, 3, 9, 8)
    last = images.to(memory_format=torch.channels_last)
    pairs = {
        "same": (images, images + 1),
        "broadcast": (images, torch.randn(2, 3, 1, 1)),
        "both broadcast": (torch.randn(2, 1, 9, 1), torch.randn(1, 3, 1, 8)),
        "fewer dimensions": (images, torch.randn(8)),
        "layouts": (last, last),
        "two layouts": (images, last),
        "one pixel": (torch.randn(2, 3, 1, 1), last),
        "views": (images.mT, images[..., ::2].mT[:, :, :1]),
        "dtypes": (images.bfloat16(), images),
        "16 bits": (images.bfloat16(), images.bfloat16()),
        "float64": (images.double(), images.double()),
        "integers": (images.long(), images.long()),
        "complex": (images.to(torch.complex64).conj(), images.to(torch.complex64)),
        "negative": (torch.complex(images, images).conj().imag, images),
        "scalars": (torch.tensor(2.0), images),
        "empty": (images[:0], images[:1]),
    }
    with torch.inference_mode():
        for first, second in pairs.values():
            result, expected = ours(first, second), stock(first, second)
            assert torch.equal(result, expected)
            assert (result.dtype, result.stride()) == (expected.dtype, expected.stride())
        assert ours(images.to("meta"), images.to("meta")).shape == images.shape
        for refused in ((images, torch.randn(2, 3, 9, 7)), (images, torch.randn(2, 4, 9, 8))):
            with pytest.raises(RuntimeError) as expected:
                stock(*refused)
            with pytest.raises(RuntimeError) as raised:
                ours(*refused)
            assert str(raised.value).split("\n")[0] == str(expected.value).split("\n")[0]


@of_two
def test_gradients_of_sums_and_products(ours, stock):
    first, second = (torch.randn(2, 3, 4, requires_grad=True, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(ours, (first, second))
    assert torch.equal(torch.vmap(ours)(first, second), stock(first, second))
    tangents = torch.ones_like(first), torch.zeros_like(second)
    results = [torch.func.jvp(function, (first, second), tangents) for function in (ours, stock)]
    torch.testing.assert_close(*results)


class Residual(nn.Module):
    """Sums and a product of tensors, one product of sizes, and a sum whose value is used again behind its ReLU."""

    def __init__(self):
        super().__init__()
        self.convolution, self.activation = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()

    def forward(self, x):
        y = self.activation(torch.relu(self.convolution(x)) + x)
        z = torch.add(y, x)
        count = x.size(2) * x.size(3)
        return F.relu(z) * z, F.relu(y.mul(x).add(z)) / count


def test_a_converted_forward_of_sums_and_products():
    model = Residual().eval()
    converted, images = fastvision.convert(model), torch.randn(1, 8, 48, 48)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(converted(images), model(images))
    with torch.inference_mode():
        converted(images)
        found = operators_of(lambda: converted(images))
    assert {"fastvision::add", "fastvision::mul", "aten::relu_", "aten::relu"} <= found


def test_hooks_see_a_sum_before_its_relu():
    model = fastvision.convert(Residual().eval())
    seen = []
    model.activation.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.inference_mode():
        model(torch.randn(1, 8, 48, 48))
    assert (seen[0] < 0).any()


def test_gradients_of_a_converted_forward():
    model = Residual()
    converted = fastvision.convert(model)
    images = torch.randn(1, 8, 48, 48)
    gradients = []
    for module in (model, converted):
        sum(map(torch.sum, module(images))).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("join", [torch.cat, torch.concat, torch.concatenate])
def test_a_converted_forward_keeps_the_memory(join):
    model = Branches(join).eval()
    images = torch.randn(1, 8, 48, 48)
    converted = fastvision.convert(model)
    with torch.inference_mode():
        expected = model(images)
        converted(images)
        fastvision.backends.cpu.empty_cache()
        result = converted(images)
    torch.testing.assert_close(result, expected)
    before = fastvision.backends.cpu.cached_bytes
    size = result.nbytes
    del result
    assert fastvision.backends.cpu.cached_bytes == before + size
