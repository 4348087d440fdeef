"""Image files, one by one. Needs Pillow (the extra ``vision``)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvision.data.dataset import DataError

MODES = {1: "L", 3: "RGB"}  # Pillow's, by channels
ORIENTATION = 0x0112  # EXIF's tag, whose values from 5 on exchange height and width
FIRST_TURNED = 5


# Channels, height and width; None is what the file has.
ImageShape = tuple[int | None, int | None, int | None]


def read_image(path: str | Path, image_shape: ImageShape = (None, None, None)) -> Tensor:
    """Reads an image file as uint8 ``(C, H, W)``, turned as its camera says; what is transparent becomes white.

    Args:
        path: Of any format that Pillow knows.
        image_shape: ``(C, H, W)`` to convert and stretch it to: one channel is grey, three are red, green and blue.
            What is None is as in the file.

    Raises:
        DataError: Where the file can't be read or is no image, Pillow is not installed, or C is neither 1 nor 3.
    """
    channels, height, width = image_shape
    if channels not in (None, *MODES):
        raise DataError(f"{path}: image files have 1 channel or 3, not {channels}")
    with _opened(path) as opened:
        from PIL import Image, ImageOps

        image = _eight_bits(ImageOps.exif_transpose(opened))
        channels = channels or _channels(image.mode)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(MODES[channels])
        size = (width or image.width, height or image.height)
        image = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).contiguous() if pixels.dim() == 3 else pixels[None]


def inspect_image(path: str | Path) -> tuple[int, int, int]:
    """``(C, H, W)`` that `read_image` would give, from the beginning of the file. Raises DataError as it."""
    with _opened(path) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= FIRST_TURNED
        width, height = reversed(image.size) if turned else image.size
        return _channels(image.mode), height, width


def is_image_name(path: Path) -> bool:
    """Whether the name ends as one of an image file, of a format that Pillow reads."""
    from PIL import Image

    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A Pillow image; whatever a broken file makes Pillow raise becomes a DataError."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: image files need Pillow: pip install 'fastvision[vision]'") from error
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{path}: can't be read as an image: {reason}") from error


def _channels(mode: str) -> int:
    return 1 if mode in ("1", "L", "LA", "La") or mode.startswith("I") else 3


def _eight_bits(image: Any) -> Any:
    """Images of 16 bits, which Pillow would clip, as their upper eight."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.array(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
