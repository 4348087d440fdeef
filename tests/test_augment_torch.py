"""The augment operator among torch's other machinery: opcheck, compile, gradients, the module's modes."""

import pytest
import torch
from torch.testing import assert_close

from fastvision.nn import AffineAugment
from fastvision.ops import affine_matrices, affine_resample, affine_resample_reference

pytestmark = pytest.mark.usefixtures("one_thread")
RANGES = {"rotation_range": 40, "zoom_range": 0.2, "horizontal_flip": True}


def problem():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 9, 20), dtype=torch.uint8, generator=generator)
    return images, affine_matrices(2, 9, 20, **RANGES, generator=generator)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_opcheck(dtype, memory_format):
    images, matrices = problem()
    options = {"scale": [1.0], "offset": [0.0, 1.0, 2.0], "memory_format": memory_format}
    torch.library.opcheck(torch.ops.fastvision.affine_resample.default, (images.to(dtype), matrices), options)


def test_gradients_are_the_references():
    images, matrices = problem()
    images = images.float().requires_grad_()
    result = affine_resample(images, matrices)
    assert_close(result, affine_resample_reference(images, matrices))
    (gradient,) = torch.autograd.grad(result.sum(), images)
    assert gradient.sum() == pytest.approx(result.numel(), rel=1e-4)  # weights of each pixel sum to one


@pytest.mark.slow
def test_compiles_in_one_graph():
    images, _ = problem()
    augment = AffineAugment(**RANGES)
    compiled = torch.compile(augment, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    expected = augment(images)
    torch.manual_seed(1)
    assert_close(compiled(images), expected)


def test_module_draws_in_training_only_and_hands_labels_back():
    images, _ = problem()
    labels = torch.arange(2)
    augment = AffineAugment(**RANGES)
    torch.manual_seed(1)
    result, same = augment(images, labels)
    assert same is labels
    assert not torch.equal(result, augment(images))
    state = torch.get_rng_state()
    assert_close(augment.eval()(images), images / 255)
    assert_close(augment(images[0]), images[0] / 255)
    assert torch.equal(torch.get_rng_state(), state)
