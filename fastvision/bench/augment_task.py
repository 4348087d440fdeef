"""A case of the augment family made concrete: images, the maps to them, and who resamples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastvision.bench.augment_cases import AugmentCase
from fastvision.bench.case_task import CaseTask
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read
from fastvision.ops import affine_matrices, affine_resample, affine_resample_reference
from fastvision.training.settings import AUGMENTATION


@dataclass(frozen=True)
class AugmentTask(CaseTask):
    """A case with a thread count, random images (N, H, W, C) and one map for each, the same for every peer."""

    case: AugmentCase
    mode: Mode
    threads: int
    images: Tensor
    matrices: Tensor

    @classmethod
    def random(
        cls, case: AugmentCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "AugmentTask":
        """Images of noise, which is as hard for the caches as any and harder to interpolate than pictures.

        They are uint8 and the results float32, whatever dtype the networks of a benchmark have.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (case.batch, case.size, case.size, case.channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        matrices = affine_matrices(case.batch, case.size, case.size, **AUGMENTATION, generator=generator)
        return cls(case, mode, threads, images, matrices)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The images as (N, C, H, W)."""
        return (self.images.permute(0, 3, 1, 2),)

    @property
    def dtype(self) -> torch.dtype:
        """Of the result."""
        return torch.float32

    @property
    def flops(self) -> int:
        """None: the addresses take longer than the arithmetic."""
        return 0

    @property
    def reads(self) -> tuple[Read, ...]:
        """The images and the result."""
        return self.case.reads()

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what is compared."""
        return ("images",)

    def resample(self, function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        """One call of affine_resample or its reference."""
        return partial(function, *self.inputs, self.matrices, fill_mode=self.case.fill_mode)

    def reference(self) -> tuple[Tensor, ...]:
        """The result in float64."""
        images = self.inputs[0].double()
        return (affine_resample_reference(images, self.matrices, fill_mode=self.case.fill_mode, rescale=1 / 255),)


def fastvision_call(task: AugmentTask) -> Callable[[], Tensor]:
    """What is timed of fastvision."""
    return task.resample(affine_resample)


def stock_call(task: AugmentTask) -> Callable[[], Tensor]:
    """What is timed of stock PyTorch."""
    return task.resample(affine_resample_reference)
