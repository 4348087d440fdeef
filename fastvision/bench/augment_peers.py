"""Who resamples: fastvision, stock calls, scipy as Keras calls it, kornia."""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

import fastvision
from fastvision.bench.augment_task import AugmentTask, fastvision_call, stock_call
from fastvision.bench.peers import BASELINE, OURS, Peer, missing_packages

# A pixel in ten thousand lies so near a jump of the fill that rounding decides, and jumps as far as noise does.
_AT_JUMPS = 0.02


class _AugmentPeer:
    default = True
    tolerance = _AT_JUMPS

    def missing(self) -> str | None:
        return None

    def unsupported(self, task: AugmentTask) -> str | None:
        return None

    def version(self) -> str:
        return torch.__version__


class Fastvision(_AugmentPeer):
    """fastvision's operator."""

    name = title = OURS

    def prepare(self, task: AugmentTask) -> Callable[[], Tensor]:
        return fastvision_call(task)

    def version(self) -> str:
        return fastvision.__version__


class Stock(_AugmentPeer):
    """The reference: gathers and arithmetic of stock PyTorch."""

    name = title = BASELINE

    def prepare(self, task: AugmentTask) -> Callable[[], Tensor]:
        return stock_call(task)


class Scipy(_AugmentPeer):
    """scipy.ndimage.affine_transform of each channel of each image, as Keras' ImageDataGenerator calls it."""

    name, title = "scipy", "scipy (Keras)"

    def missing(self) -> str | None:
        return missing_packages(self.title, "scipy")

    def unsupported(self, task: AugmentTask) -> str | None:
        return "runs on one thread" if task.threads != 1 else None

    def prepare(self, task: AugmentTask) -> Callable[[], np.ndarray]:
        from scipy.ndimage import affine_transform

        images, matrices, mode = task.images.numpy(), task.matrices.numpy(), task.case.fill_mode

        def one(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
            channels = np.moveaxis(image.astype(np.float32), 2, 0)
            linear, offset = matrix[:, :2], matrix[:, 2]
            return np.stack([affine_transform(c, linear, offset, order=1, mode=mode) for c in channels])

        def call() -> tuple[np.ndarray]:
            result = np.stack([one(image, matrix) for image, matrix in zip(images, matrices, strict=True)])
            result *= 1 / 255
            return (result,)

        return call

    def version(self) -> str:
        return version("scipy")


class Kornia(_AugmentPeer):
    """kornia's warp_affine, the one pass that its RandomAffine makes, of the same maps."""

    name = title = "kornia"

    def missing(self) -> str | None:
        return missing_packages(self.title, "kornia")

    def unsupported(self, task: AugmentTask) -> str | None:
        # Its fill of zeros lets the edge fade, its reflection leaves the edge's pixels out, and it does not wrap.
        return None if task.case.fill_mode == "nearest" else f"has no fill like '{task.case.fill_mode}'"

    def prepare(self, task: AugmentTask) -> Callable[[], Tensor]:
        from kornia.geometry.transform import warp_affine

        n, (height, width) = len(task.images), task.images.shape[1:3]
        (images,) = (tensor.contiguous() for tensor in task.inputs)
        last_row = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(n, 1, 3)
        # From (x, y) of the image to (x, y) of the result.
        swap = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        maps = (swap @ torch.linalg.inv(torch.cat([task.matrices, last_row], 1)) @ swap)[:, :2].float()

        def call() -> Tensor:
            scaled = images.float() / 255
            return warp_affine(scaled, maps, (height, width), padding_mode="border", align_corners=True)

        return call

    def version(self) -> str:
        return version("kornia")


AUGMENT_PEERS: tuple[Peer, ...] = (Fastvision(), Stock(), Scipy(), Kornia())
