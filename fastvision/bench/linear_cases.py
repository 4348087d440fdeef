"""What the linear family is measured on."""

from dataclasses import dataclass

from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read


@dataclass(frozen=True)
class LinearCase:
    """A fully connected layer, and its batch.

    `quick`: whether it is one of the few of `bench all --quick`.
    """

    batch: int
    in_features: int
    out_features: int
    modes: tuple[Mode, ...] = ("infer",)
    quick: bool = False

    @property
    def name(self) -> str:
        """For example 'b1 1152>128'."""
        return f"b{self.batch} {self.in_features}>{self.out_features}"

    def flops(self, mode: Mode) -> int:
        """Floating-point operations, two per multiply-add."""
        return 2 * self.batch * self.in_features * self.out_features

    def reads(self, element_size: int) -> tuple[Read, ...]:
        """The weights, of elements of element_size bytes."""
        weights = self.in_features * self.out_features * element_size
        return (Read(weights, 1, weights),)


LINEAR_CASES = (
    LinearCase(1, 1152, 128, quick=True),
    LinearCase(1, 3136, 128),
    LinearCase(1, 86528, 128),
    LinearCase(1, 512, 1000),
    LinearCase(1, 4096, 4096),
    LinearCase(4, 784, 512, quick=True),
    LinearCase(8, 1152, 128),
    LinearCase(8, 4096, 4096),
    LinearCase(32, 4096, 4096),
    LinearCase(32, 784, 512),
)
