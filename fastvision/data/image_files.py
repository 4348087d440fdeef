"""Image files, one by one and in folders. Needs Pillow (the extra ``vision``)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastvision.data.dataset import DataError

MODES = {1: "L", 3: "RGB"}  # Pillow's, by channels


def read_image(path: str | Path, image_shape: tuple[int, int | None, int | None]) -> Tensor:
    """Reads an image file as uint8 ``(C, H, W)``, turned as its camera says; what is transparent becomes white.

    Args:
        path: Of any format that Pillow knows.
        image_shape: ``(C, H, W)`` to convert and stretch it to: one channel is grey, three are red, green and blue.
            Height and width may be None: the file's.

    Raises:
        DataError: Where the file can't be read or is no image, Pillow is not installed, or C is neither 1 nor 3.
    """
    channels, height, width = image_shape
    if channels not in MODES:
        raise DataError(f"{path}: image files have 1 channel or 3, not {channels}")
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: image files need Pillow: pip install 'fastvision[vision]'") from error
    try:
        with Image.open(path) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert(MODES[channels])
            size = (width or image.width, height or image.height)
            image = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image))
    # Pillow's readers raise these and more of what a broken file makes them do.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: can't be read as an image: {_reason(error)}") from error
    return pixels.permute(2, 0, 1).contiguous() if pixels.dim() == 3 else pixels[None]


def _eight_bits(image):
    """Images of 16 bits, which Pillow would clip, as their upper eight."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.array(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
