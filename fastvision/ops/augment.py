"""Random affine augmentation of image batches in one resampling pass.

The parameters are those of Keras' ImageDataGenerator, and so is their meaning. For each image a rotation, a shift, a
shear and a zoom are drawn, and as Keras composes them the map from the result to the image is

    R(theta) T(t) S(shear) Z(z),   R = [[cos, -sin], [sin, cos]],  S = [[1, -sin(shear)], [0, cos(shear)]]

on (row, column), about the image's centre, ((H - 1) / 2, (W - 1) / 2); then the result is flipped. Pixels are read
between their neighbours (bilinear; Keras' interpolation_order 1) or at the nearest one (order 0), and what lies outside
is filled, exactly as scipy.ndimage.affine_transform does it in the mode of the name, which is what Keras calls for each
channel:

    nearest     a a a a | a b c d | d d d d
    constant    k k k k | a b c d | k k k k   beyond the centres of the outermost pixels, without a transition
    reflect     d c b a | a b c d | d c b a
    wrap        d b c d | a b c d | b c a b   scipy's 'wrap', not its 'grid-wrap': the period is one less than the size

uint8 and float32 images have kernels, which compute coordinates to 1/1000 of a pixel and values in float32; others,
images of more than 16 channels or more than 16384 rows or columns, and images that require gradients run the reference.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

_affine_resample = torch.ops.fastvision.affine_resample.default
_affine_resample_reference = torch.ops.fastvision.affine_resample_reference.default

Range = float | tuple[float, float]


def affine_augment(
    images: Tensor,
    *,
    rotation_range: float = 0.0,
    width_shift_range: float = 0.0,
    height_shift_range: float = 0.0,
    shear_range: float = 0.0,
    zoom_range: Range = 0.0,
    horizontal_flip: bool = False,
    rescale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    interpolation: str = "bilinear",
    fill_mode: str = "nearest",
    cval: float = 0.0,
    layout: str = "NCHW",
    memory_format: torch.memory_format = torch.contiguous_format,
    generator: Generator | None = None,
) -> Tensor:
    """Images rotated, shifted, sheared, zoomed and flipped at random, each by its own draw, rescaled and normalised.

    Args:
        images: (N, C, H, W) or (C, H, W), or as `layout` says. uint8, or any other real dtype. Any strides.
        rotation_range: degrees; theta is uniform in [-range, range].
        width_shift_range, height_shift_range: below 1 a fraction of the width or height, else pixels; the shift is
            uniform in [-range, range].
        shear_range: degrees; uniform in [-range, range].
        zoom_range: a factor for rows and another for columns, uniform in [1 - range, 1 + range], or between the two
            numbers of a pair. As in Keras they stretch the map to the image: below 1 the picture gets larger.
        horizontal_flip: whether every second image, at random, is flipped.
        rescale: factor of the values. None means 1/255 for uint8 and 1 for other dtypes.
        mean, std: subtracted and divided by after the rescaling, one number or one for each channel; None is 0 and 1.
        interpolation: 'bilinear' or 'nearest'.
        fill_mode: 'nearest', 'constant', 'reflect' or 'wrap', outside the image; see the module's docstring.
        cval: the value of 'constant', in the images' units: it is rescaled and normalised with them.
        layout: of the images, 'NCHW', or 'NHWC' as files and Keras have them ((N, H, W, C) or (H, W, C)).
        memory_format: of a batch's result, torch.contiguous_format or torch.channels_last.
        generator: where the parameters come from, on any device; None means torch's default generator of the images'
            device. Seven float64 numbers are drawn for each image, image after image, whatever the ranges are.

    Returns:
        (N, C, H, W) or (C, H, W), the images' dtype if that is floating-point, else float32.

    Raises:
        ValueError: an option is none of these, a range is negative, or mean or std has neither one number nor C.
        RuntimeError: images have neither three nor four dimensions, or are complex.
    """
    batch = as_batch(images, layout)
    n, _, height, width = batch.shape
    matrices = affine_matrices(
        n,
        height,
        width,
        rotation_range=rotation_range,
        width_shift_range=width_shift_range,
        height_shift_range=height_shift_range,
        shear_range=shear_range,
        zoom_range=zoom_range,
        horizontal_flip=horizontal_flip,
        generator=generator,
        device=batch.device,
    )
    result = affine_resample(
        batch,
        matrices,
        rescale=rescale,
        mean=mean,
        std=std,
        interpolation=interpolation,
        fill_mode=fill_mode,
        cval=cval,
        memory_format=memory_format,
    )
    return result if images.dim() == 4 else result[0]


def affine_matrices(
    n: int,
    height: int,
    width: int,
    *,
    rotation_range: float = 0.0,
    width_shift_range: float = 0.0,
    height_shift_range: float = 0.0,
    shear_range: float = 0.0,
    zoom_range: Range = 0.0,
    horizontal_flip: bool = False,
    generator: Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The random maps of `affine_augment`, for `affine_resample`: to treat masks like their images, say.

    Args:
        n: how many.
        height, width: of the images, in pixels.
        rotation_range, width_shift_range, height_shift_range, shear_range, zoom_range, horizontal_flip, generator: as
            in `affine_augment`.
        device: of the result; None means the generator's, or the CPU.

    Returns:
        (n, 2, 3) float64, from (row, column, 1) of the result to row and column of the image.

    Raises:
        ValueError: a range is negative, or zoom_range is a pair out of order.
    """
    low_zoom, high_zoom = _zoom(zoom_range)
    tx = _pixels("height_shift_range", height_shift_range, height)
    ty = _pixels("width_shift_range", width_shift_range, width)
    theta = math.radians(_not_negative("rotation_range", rotation_range))
    shear = math.radians(_not_negative("shear_range", shear_range))
    drawn_on = generator.device if generator is not None else device
    u = torch.rand(n, 7, dtype=torch.float64, generator=generator, device=drawn_on)
    # theta, theta + shear, row shift, column shift, zooms of rows and columns, flip
    first = u[:, 0].mul(2).sub(1).mul(theta)
    second = u[:, 1].mul(2).sub(1).mul(shear).add(first)
    down, right = u[:, 2].mul(2).sub(1).mul(tx), u[:, 3].mul(2).sub(1).mul(ty)
    zoom_rows, zoom_columns = u[:, 4:6].mul(high_zoom - low_zoom).add(low_zoom).unbind(1)
    if horizontal_flip:
        # About the centre, so that it needs no shift of its own.
        zoom_columns = torch.where(u[:, 6] < 0.5, -zoom_columns, zoom_columns)
    cos, sin = first.cos(), first.sin()
    a, b = cos * zoom_rows, -second.sin() * zoom_columns
    c, d = sin * zoom_rows, second.cos() * zoom_columns
    cy, cx = (height - 1) / 2, (width - 1) / 2
    rows = (cos * down - sin * right) + (cy - (a * cy + b * cx))
    columns = (sin * down + cos * right) + (cx - (c * cy + d * cx))
    return torch.stack([a, b, rows, c, d, columns], 1).view(n, 2, 3).to(device or drawn_on)


def affine_resample(
    images: Tensor,
    matrices: Tensor,
    *,
    rescale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    interpolation: str = "bilinear",
    fill_mode: str = "nearest",
    cval: float = 0.0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Images read through an affine map each, rescaled and normalised, in one pass.

    Args:
        images: (N, C, H, W), any real dtype and strides.
        matrices: (N, 2, 3), floating-point, on the images' device: pixel (y, x) of the result is the image at
            M @ (y, x, 1), a row and a column, centres of pixels at whole numbers. Not differentiable by them.
        rescale, mean, std, interpolation, fill_mode, cval, memory_format: as in `affine_augment`.

    Returns:
        (N, C, H, W), the images' dtype if that is floating-point, else float32.

    Raises:
        ValueError: an option is none of these, or mean or std has neither one number nor C.
        RuntimeError: shapes, dtypes or devices are not as above.
    """
    options = _operator_options(images, rescale, mean, std, interpolation, fill_mode, cval, memory_format)
    # The kernels have no gradients.
    run = _affine_resample_reference if images.requires_grad and torch.is_grad_enabled() else _affine_resample
    return run(images, matrices, **options)


def affine_resample_reference(
    images: Tensor,
    matrices: Tensor,
    *,
    rescale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    interpolation: str = "bilinear",
    fill_mode: str = "nearest",
    cval: float = 0.0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """What `affine_resample` computes, by stock PyTorch calls alone, and differentiable by the images."""
    options = _operator_options(images, rescale, mean, std, interpolation, fill_mode, cval, memory_format)
    return _affine_resample_reference(images, matrices, **options)


def as_batch(images: Tensor, layout: str) -> Tensor:
    """The images as (N, C, H, W)."""
    if layout not in ("NCHW", "NHWC"):
        raise ValueError(f"layout: expected 'NCHW' or 'NHWC', got {layout!r}")
    if images.dim() not in (3, 4):
        raise RuntimeError(f"images: expected three or four dimensions, got shape {tuple(images.shape)}")
    batch = images if images.dim() == 4 else images[None]
    return batch.permute(0, 3, 1, 2) if layout == "NHWC" else batch


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:  # NaN included
        raise ValueError(f"{name}: expected a number of at least 0, got {value}")
    return float(value)


def _pixels(name: str, value: float, size: int) -> float:
    return value * size if _not_negative(name, value) < 1 else float(value)


def _zoom(value: Range) -> tuple[float, float]:
    if isinstance(value, int | float):
        return 1 - _not_negative("zoom_range", value), 1 + value
    low, high = value
    if not low <= high:
        raise ValueError(f"zoom_range: expected the smaller factor first, got {value}")
    return float(low), float(high)


def _numbers(name: str, value: float | Sequence[float] | None, default: float, channels: int) -> list[float]:
    numbers = [default if value is None else value] if value is None or isinstance(value, int | float) else list(value)
    if len(numbers) not in (1, channels):
        raise ValueError(f"{name}: expected one number, or one for each of the {channels} channels, got {len(numbers)}")
    return [float(number) for number in numbers]


def _operator_options(images, rescale, mean, std, interpolation, fill_mode, cval, memory_format):
    scale, offset = _scale_and_offset(images, rescale, mean, std)
    sampling = {"interpolation": interpolation, "fill_mode": fill_mode, "cval": cval}
    return {"scale": scale, "offset": offset, "memory_format": memory_format, **sampling}


def _scale_and_offset(
    images: Tensor, rescale: float | None, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """(x rescale - mean) / std as x scale + offset."""
    if rescale is None:
        rescale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    channels = images.shape[1] if images.dim() == 4 else 1
    means, stds = _numbers("mean", mean, 0.0, channels), _numbers("std", std, 1.0, channels)
    if not all(stds):
        raise ValueError(f"std: expected numbers other than 0, got {std}")
    means = means * len(stds) if len(means) == 1 else means
    pairs = list(zip(means, stds if len(stds) == len(means) else stds * len(means), strict=True))
    return [rescale / s for _, s in pairs], [-m / s for m, s in pairs]
