"""Random augmentation of images as a layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvision.ops.augment import Range, affine_augment, affine_resample, as_batch


class AffineAugment(nn.Module):
    """Images augmented at random in training; in eval mode only rescaled and normalised.

    `fastvision.ops.affine_augment`, with the parameters of Keras' ImageDataGenerator, as a layer that a transform of a
    batch, of one image, or the first layer of a network can be. It has no parameters.

    Args:
        rotation_range, width_shift_range, height_shift_range, shear_range, zoom_range, horizontal_flip, generator:
            as in `affine_augment`; in eval mode of no effect.
        rescale, mean, std, interpolation, fill_mode, cval, layout, memory_format: as in `affine_augment`.

    Shapes: images (N, C, H, W) or (C, H, W), or with 'NHWC' (N, H, W, C) or (H, W, C), to (N, C, H, W) or (C, H, W).
    Further arguments, labels say, are handed back as they are: `images, labels = augment(images, labels)`.
    Dtypes: uint8 and other integers to float32; floating-point stays.

    Raises:
        ValueError: at the call, where an option is none of these or a range is negative.
        RuntimeError: at the call, where images have neither three nor four dimensions.
    """

    def __init__(
        self,
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
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.random = {
            "rotation_range": rotation_range,
            "width_shift_range": width_shift_range,
            "height_shift_range": height_shift_range,
            "shear_range": shear_range,
            "zoom_range": zoom_range,
            "horizontal_flip": horizontal_flip,
        }
        self.fixed = {
            "rescale": rescale,
            "mean": mean,
            "std": std,
            "interpolation": interpolation,
            "fill_mode": fill_mode,
            "cval": cval,
            "memory_format": memory_format,
        }
        self.layout = layout
        self.generator = generator

    def forward(self, images: Tensor, *others: Any) -> Any:
        result = self._augmented(images) if self.training else self._plain(images)
        return (result, *others) if others else result

    def _augmented(self, images: Tensor) -> Tensor:
        options = self.fixed | {"layout": self.layout, "generator": self.generator}
        return affine_augment(images, **self.random, **options)

    def _plain(self, images: Tensor) -> Tensor:
        batch = as_batch(images, self.layout)
        same = torch.eye(2, 3, dtype=torch.float64, device=batch.device).expand(len(batch), 2, 3)
        result = affine_resample(batch, same, **self.fixed)
        return result if images.dim() == 4 else result[0]

    def extra_repr(self) -> str:
        options = self.random | self.fixed | {"layout": self.layout}
        return ", ".join(f"{name}={value!r}" for name, value in options.items())
