"""Concatenation in a converted forward: torch.cat, in kept memory."""

import pytest
import torch
from torch import nn

import fastvision

cat = torch.ops.fastvision.cat
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
