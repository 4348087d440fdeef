"""What the augment family is measured on."""

from dataclasses import dataclass

from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read


@dataclass(frozen=True)
class AugmentCase:
    """A batch of uint8 images, (batch, size, size, channels), all augmentations at once, to float32 (N, C, H, W).

    `quick`: whether it is one of the few of `bench all --quick`.
    """

    batch: int
    channels: int
    size: int
    fill_mode: str = "nearest"
    modes: tuple[Mode, ...] = ("infer",)
    quick: bool = False

    @property
    def name(self) -> str:
        """For example 'b32 3 @224 nearest'."""
        return f"b{self.batch} {self.channels} @{self.size} {self.fill_mode}"

    @property
    def pixels(self) -> int:
        """Of the result, whatever the number of channels."""
        return self.batch * self.size * self.size

    def reads(self) -> tuple[Read, ...]:
        """The images and the result: a byte and four for each value."""
        moved = 5 * self.channels * self.pixels
        return (Read(moved, 1, moved),)


AUGMENT_CASES = (
    AugmentCase(1, 3, 224, quick=True),
    AugmentCase(32, 3, 224, quick=True),
    AugmentCase(32, 3, 224, "constant"),
    AugmentCase(32, 3, 224, "reflect"),
    AugmentCase(32, 3, 224, "wrap"),
    AugmentCase(128, 1, 28),
    AugmentCase(128, 3, 32),
)
