"""What the pool family is measured on."""

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from torch import nn

from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read


@dataclass(frozen=True)
class PoolCase:
    """Pooling of a batch of square images.

    `quick`: whether it is one of the few of `bench all --quick`.
    """

    batch: int
    channels: int
    size: int
    kernel_size: int
    stride: int
    padding: int = 0
    network: str = ""
    pool: Literal["max", "avg"] = "max"
    modes: tuple[Mode, ...] = ("infer", "train")
    quick: bool = False

    @property
    def name(self) -> str:
        """For example 'b1 192 @28 3/1 pad 1 (GoogLeNet)'."""
        padding = f" pad {self.padding}" if self.padding else ""
        network = f" ({self.network})" if self.network else ""
        pool = "avg " if self.pool == "avg" else ""
        return f"b{self.batch} {self.channels} @{self.size} {pool}{self.kernel_size}/{self.stride}{padding}{network}"

    @property
    def out_size(self) -> int:
        """Rows, and columns, of the result."""
        return (self.size + 2 * self.padding - self.kernel_size) // self.stride + 1

    def module(self, namespace: ModuleType) -> nn.Module:
        """The layer, of torch.nn or of fastvision.nn."""
        kind = namespace.MaxPool2d if self.pool == "max" else namespace.AvgPool2d
        return kind(self.kernel_size, self.stride, self.padding)

    def reads(self, mode: Mode, element_size: int) -> tuple[Read, ...]:
        """The images and the result, of elements of element_size bytes; in training their gradients and the indices."""
        images, results = (self.batch * self.channels * size**2 for size in (self.size, self.out_size))
        moved = (images + results) * element_size
        if mode == "train":
            moved = 2 * moved + (2 * 8 * results if self.pool == "max" else 0)
        return (Read(moved, 1, moved),)


POOL_CASES = (
    PoolCase(1, 192, 28, 3, 1, 1, "GoogLeNet", quick=True),
    PoolCase(1, 832, 7, 3, 1, 1, "GoogLeNet"),
    PoolCase(1, 64, 55, 3, 2),
    PoolCase(1, 128, 55, 3, 2, 0, "SqueezeNet", quick=True),
    PoolCase(1, 64, 128, 2, 2, 0, "UNet"),
    PoolCase(1, 768, 17, 3, 1, 1, "Inception", "avg", ("infer",), quick=True),
    PoolCase(1, 256, 56, 2, 2, 0, "DenseNet", "avg", ("infer",)),
    PoolCase(8, 192, 28, 3, 1, 1, "GoogLeNet"),
    PoolCase(8, 128, 55, 3, 2, 0, "SqueezeNet"),
    PoolCase(8, 64, 128, 2, 2, 0, "UNet"),
)
