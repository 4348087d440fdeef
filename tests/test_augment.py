"""The augment operator against scipy's affine_transform, called as Keras calls it, and against its reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fastvision.ops import affine_augment, affine_matrices, affine_resample, affine_resample_reference

ndimage = pytest.importorskip("scipy.ndimage", reason="the oracle needs scipy: pip install 'fastvision[dev]'")

pytestmark = pytest.mark.usefixtures("one_thread")
FILLS = ("constant", "nearest", "reflect", "wrap")
ORDERS = {"nearest": 0, "bilinear": 1}
ALL = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
RUNS = (affine_resample, affine_resample_reference)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bytes_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def keras(images, matrices, interpolation="bilinear", fill_mode="nearest", cval=0.0):
    """The images as Keras' apply_affine_transform makes them: channel by channel, float32."""
    results = torch.empty(images.shape)
    for image, matrix, result in zip(images, matrices.numpy(), results, strict=True):
        for channel, to in zip(image.float().numpy(), result, strict=True):
            order, mode = ORDERS[interpolation], fill_mode
            found = ndimage.affine_transform(channel, matrix[:, :2], matrix[:, 2], order=order, mode=mode, cval=cval)
            to.copy_(torch.from_numpy(found))
    return results


def is_steady(images, matrices, interpolation, fill_mode):
    """Where a small error of the coordinate is a small error of the result: not at a jump."""
    n, _, height, width = images.shape
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    found = torch.einsum("nij,jhw->nihw", matrices, torch.stack([y, x, torch.ones_like(x)]))
    steady = torch.ones(n, height, width, dtype=torch.bool)
    for c, size in ((found[:, 0], height), (found[:, 1], width)):
        jumps = []
        if interpolation == "nearest":
            jumps.append(c - 0.5)
        if fill_mode == "constant":
            jumps += [torch.where(c.abs() < 1, c, 0.5), torch.where((c - size + 1).abs() < 1, c - size + 1, 0.5)]
        if fill_mode == "wrap":  # of the folded coordinate, whose jumps are not at halves of whole numbers
            jumps += [c / max(size - 1, 1) * 1.0]
        for jump in jumps:
            steady &= (jump - jump.round()).abs() > 1e-4
    return steady[:, None]


@pytest.mark.parametrize("interpolation", ORDERS)
@pytest.mark.parametrize("fill_mode", FILLS)
@pytest.mark.parametrize("shape", [(3, 3, 37, 52), (2, 1, 28, 28), (1, 4, 7, 130)], ids=str)
def test_result_is_scipys(capability, interpolation, fill_mode, shape):
    images = bytes_of(*shape)
    matrices = affine_matrices(shape[0], *shape[2:], **ALL | {"zoom_range": (0.5, 2.5)}, generator=seeded(3))
    options = {"interpolation": interpolation, "fill_mode": fill_mode, "cval": 77.0}
    expected = keras(images, matrices, **options) / 255
    steady = is_steady(images, matrices, interpolation, fill_mode).expand_as(images)
    assert steady.float().mean() > 0.97
    for run in RUNS:
        error = (run(images, matrices, **options) - expected).abs()[steady]
        assert error.max() < 0.01 / 255


def test_result_is_scipys_at_whole_coordinates(capability):
    """At jumps both sides decide alike: shifts by whole pixels, flips, a doubled step, beyond three periods."""
    images = bytes_of(1, 3, 9, 20)
    for matrix in (
        [[1, 0, 0], [0, 1, 0]],
        [[1, 0, 0], [0, -1, 19]],
        [[1, 0, -3], [0, 1, 4]],
        [[1, 0, -30], [0, 1, -19]],
        [[0, 1, -8], [2, 0, -38]],
        [[-3, 0, 40], [0, 1.5, -7.5]],
    ):
        m = torch.tensor([matrix], dtype=torch.float64)
        for fill_mode in FILLS:
            for interpolation in ORDERS:
                options = {"interpolation": interpolation, "fill_mode": fill_mode, "cval": 5.0}
                expected = keras(images, m, **options)
                for run in RUNS:
                    assert_close(run(images, m, rescale=1.0, **options), expected, rtol=0, atol=1e-4)


@st.composite
def problems(draw):
    channels, height, width = draw(st.sampled_from([1, 2, 3, 3, 3, 4, 17])), draw(st.integers(1, 9)), 0
    width = draw(st.integers(1, 9) | st.integers(60, 140))
    shape = (draw(st.integers(0, 3)), channels, height, width)
    dtype = draw(st.sampled_from([torch.uint8, torch.uint8, torch.float32, torch.float64, torch.int16, torch.bfloat16]))
    images = bytes_of(*shape, seed=draw(st.integers(0, 9))).to(dtype)
    if draw(st.booleans()):
        images = images.to(memory_format=torch.channels_last)
    if draw(st.booleans()):  # every second pixel of another tensor
        images = images.repeat_interleave(2, 3)[..., ::2]
    if draw(st.booleans()):
        images = images[:1].expand(shape) if shape[0] else images
    number = st.floats(-3, 3)
    matrices = torch.tensor(
        [[[draw(number), draw(number), draw(st.floats(-50, 50))] for _ in range(2)] for _ in range(shape[0])],
        dtype=torch.float64,
    ).reshape(shape[0], 2, 3)
    options = {
        "mean": draw(st.none() | st.lists(number, min_size=channels, max_size=channels)),
        "std": draw(st.none() | st.floats(0.5, 2)),
        "rescale": draw(st.none() | st.floats(0.001, 0.01)),
        "interpolation": draw(st.sampled_from(list(ORDERS))),
        "fill_mode": draw(st.sampled_from(FILLS)),
        "cval": draw(st.floats(0, 255)),
        "memory_format": draw(st.sampled_from([torch.contiguous_format, torch.channels_last])),
    }
    return images, matrices, options


@settings(max_examples=60)
@given(problem=problems())
def test_any_images_and_matrices(capability, problem):
    images, matrices, options = problem
    actual = affine_resample(images, matrices, **options)
    expected = affine_resample_reference(images, matrices, **options)
    assert actual.shape == images.shape
    assert actual.dtype == (images.dtype if images.is_floating_point() else torch.float32)
    assert actual.is_contiguous(memory_format=options["memory_format"])
    steady = is_steady(images, matrices, options["interpolation"], options["fill_mode"]).expand_as(actual)
    scale = (1 / 255 if images.dtype == torch.uint8 else 1) if options["rescale"] is None else options["rescale"]
    # Steps of 3 pixels of images as steep as can be, and coordinates with an error of 2e-5.
    atol = (0.05 * scale + 1e-5) / (options["std"] or 1)
    assert_close(actual[steady], expected[steady], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e30, 1e9])
@pytest.mark.parametrize("fill_mode", FILLS)
def test_any_numbers_in_matrices(capability, fill_mode, value):
    """They stay within the images: what they give is a value of the image or the fill."""
    for channels in (1, 3):
        images = bytes_of(2, channels, 5, 21)
        for i in range(6):
            matrices = torch.eye(2, 3, dtype=torch.float64).repeat(2, 1, 1)
            matrices.view(2, 6)[1, i] = value
            result = affine_resample(images, matrices, fill_mode=fill_mode, cval=-255.0)
            assert_close(result[0], images[0] / 255)
            assert ((result[1] >= -1) & (result[1] <= 1)).all()


def test_result_does_not_depend_on_threads_or_instruction_set(capability, intraop_threads):
    images = bytes_of(5, 3, 40, 150)
    run = dict(ALL, fill_mode="wrap", mean=[0.1, 0.2, 0.3], std=0.5)
    one = affine_augment(images, **run, generator=seeded())
    intraop_threads(3)
    assert_close(affine_augment(images, **run, generator=seeded()), one, rtol=0, atol=0)
    # The coordinates' bits are everyone's; values are rounded once or twice.
    expected = affine_resample_reference(
        images,
        affine_matrices(5, 40, 150, **ALL, generator=seeded()),
        fill_mode="wrap",
        mean=[0.1, 0.2, 0.3],
        std=0.5,
    )
    assert ((one - expected).abs() > 1e-3).float().mean() < 1e-4


# The random parameters


def keras_matrix(theta, tx, ty, shear, zx, zy, height, width):
    """Step by step as Keras composes it, shear and theta in degrees."""
    theta, shear = math.radians(theta), math.radians(shear)
    matrix = torch.eye(3, dtype=torch.float64)
    for step in (
        [[math.cos(theta), -math.sin(theta), 0], [math.sin(theta), math.cos(theta), 0], [0, 0, 1]],
        [[1, 0, tx], [0, 1, ty], [0, 0, 1]],
        [[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]],
        [[zx, 0, 0], [0, zy, 0], [0, 0, 1]],
    ):
        matrix = matrix @ torch.tensor(step, dtype=torch.float64)
    oy, ox = height / 2 - 0.5, width / 2 - 0.5
    there = torch.tensor([[1, 0, oy], [0, 1, ox], [0, 0, 1]], dtype=torch.float64)
    back = torch.tensor([[1, 0, -oy], [0, 1, -ox], [0, 0, 1]], dtype=torch.float64)
    return (there @ matrix @ back)[:2]


def test_matrices_are_keras():
    height, width, n = 31, 50, 40
    ranges = dict(ALL, shear_range=20.0, width_shift_range=7, zoom_range=(0.7, 1.6))
    actual = affine_matrices(n, height, width, **ranges, generator=seeded(5))
    u = torch.rand(n, 7, dtype=torch.float64, generator=seeded(5))
    flips = 0
    for matrix, (theta, shear, tx, ty, zx, zy, flip) in zip(actual, u.tolist(), strict=True):
        low, span = 0.7, 0.9
        expected = keras_matrix(
            40 * (2 * theta - 1), 0.2 * height * (2 * tx - 1), 7 * (2 * ty - 1), 20 * (2 * shear - 1), low + span * zx,
            low + span * zy, height, width,
        )  # fmt: skip
        if flip < 0.5:  # afterwards: column x of the result is column width - 1 - x
            expected[:, 2] += expected[:, 1] * (width - 1)
            expected[:, 1] *= -1
            flips += 1
        assert_close(matrix, expected, rtol=1e-12, atol=1e-11)
    assert 10 < flips < 30


def test_images_have_their_own_parameters_and_the_generator_decides():
    images = bytes_of(1, 3, 20, 20).expand(8, 3, 20, 20)
    first = affine_augment(images, **ALL, generator=seeded(1))
    assert len({tuple(image.flatten().tolist()) for image in first}) == 8
    assert_close(affine_augment(images, **ALL, generator=seeded(1)), first, rtol=0, atol=0)
    assert_close(affine_augment(images[:3], **ALL, generator=seeded(1)), first[:3], rtol=0, atol=0)
    assert not torch.equal(affine_augment(images, **ALL, generator=seeded(2)), first)
    torch.manual_seed(1)
    assert_close(affine_augment(images, **ALL), first, rtol=0, atol=0)


def test_nothing_to_do_is_exact(capability):
    images = bytes_of(9, 3, 17, 33)
    for interpolation in ORDERS:
        assert_close(affine_augment(images, interpolation=interpolation, rescale=1.0), images.float(), rtol=0, atol=0)
    flipped = affine_augment(images, horizontal_flip=True, rescale=1.0, generator=seeded(4)).byte()
    same = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert {*same} == {True, False}


def test_layouts(capability):
    images = bytes_of(2, 3, 11, 15)
    expected = affine_augment(images, **ALL, generator=seeded())
    packed = images.permute(0, 2, 3, 1).contiguous()
    assert_close(affine_augment(packed, **ALL, layout="NHWC", generator=seeded()), expected, rtol=0, atol=0)
    assert_close(affine_augment(packed[0], **ALL, layout="NHWC", generator=seeded()), expected[0], rtol=0, atol=0)
    assert_close(affine_augment(images[0], **ALL, generator=seeded()), expected[0], rtol=0, atol=0)
    assert_close(affine_augment(images.float(), **ALL, generator=seeded()) / 255, expected)
    last = affine_augment(images, **ALL, memory_format=torch.channels_last, generator=seeded())
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_close(last, expected, rtol=0, atol=0)


def test_reads_nothing_behind_the_image(capability):
    """The image lies at the end of its memory: the last word that is read ends there (with the sanitizers' program)."""
    images = bytes_of(1, 5, 64, 3).permute(0, 3, 1, 2)
    for interpolation in ORDERS:
        result = affine_augment(images, interpolation=interpolation, rescale=1.0)
        assert_close(result, images.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"interpolation": "cubic"}, ValueError, "interpolation: expected 'bilinear' or 'nearest', got 'cubic'"),
        ({"fill_mode": "mirror"}, ValueError, "fill_mode: expected .* got 'mirror'"),
        ({"rotation_range": -1}, ValueError, "rotation_range: expected a number of at least 0, got -1"),
        ({"zoom_range": (2, 1)}, ValueError, "zoom_range: expected the smaller factor first"),
        ({"mean": [1, 2]}, ValueError, "mean: expected one number, or one for each of the 3 channels, got 2"),
        ({"std": 0.0}, ValueError, "std: expected numbers other than 0"),
        ({"layout": "HWC"}, ValueError, "layout: expected 'NCHW' or 'NHWC', got 'HWC'"),
        ({"memory_format": torch.preserve_format}, ValueError, "memory_format: expected"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        affine_augment(bytes_of(1, 3, 4, 4), **options)


def test_errors_of_tensors():
    images, matrices = bytes_of(2, 3, 4, 4), torch.zeros(2, 2, 3)
    with pytest.raises(RuntimeError, match="expected three or four dimensions, got shape"):
        affine_augment(images[0, 0])
    for wrong in (matrices[:1], matrices[..., :2], matrices.long()):
        with pytest.raises(RuntimeError, match=r"matrices: expected floating-point numbers of shape \(2, 2, 3\), got"):
            affine_resample(images, wrong)
    with pytest.raises(RuntimeError, match="images: expected real numbers"):
        affine_resample(images.to(torch.complex64), matrices)
