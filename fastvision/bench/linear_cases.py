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
    modes: tuple[Mode, ...] = ("infer", "train")
    quick: bool = False

    @property
    def name(self) -> str:
        """For example 'b1 1152>128'."""
        return f"b{self.batch} {self.in_features}>{self.out_features}"

    def flops(self, mode: Mode) -> int:
        """Floating-point operations, two per multiply-add; a training step multiplies three times."""
        products = self.batch * self.in_features * self.out_features
        return 2 * products * (3 if mode == "train" else 1)

    def reads(self, mode: Mode, element_size: int) -> tuple[Read, ...]:
        """The weights, of elements of element_size bytes; in training again, and their gradient."""
        weights = self.in_features * self.out_features * element_size
        return (Read(weights, 3 if mode == "train" else 1, weights),)


_INFER, _TRAIN = ("infer",), ("train",)
LINEAR_CASES = (
    LinearCase(1, 1152, 128, _INFER, quick=True),
    LinearCase(1, 3136, 128, _INFER),
    LinearCase(1, 86528, 128, _INFER),
    LinearCase(1, 512, 1000, _INFER),
    LinearCase(1, 4096, 4096, _INFER),
    LinearCase(4, 784, 512, _INFER, quick=True),
    LinearCase(8, 1152, 128, _INFER),
    LinearCase(8, 4096, 4096, _INFER),
    LinearCase(32, 784, 512),
    LinearCase(32, 4096, 4096),
    LinearCase(32, 86528, 128, _TRAIN, quick=True),
    LinearCase(64, 784, 512, _TRAIN),
    LinearCase(64, 1152, 128, _TRAIN),
)
