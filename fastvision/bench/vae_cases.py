"""What the vae family is measured on."""

from dataclasses import dataclass

from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read


@dataclass(frozen=True)
class VaeCase:
    """A sample and its KL divergence from mu and logvar, both (batch, latents).

    `quick`: whether it is one of the few of `bench all --quick`.
    """

    batch: int
    latents: int
    modes: tuple[Mode, ...] = ("infer", "train")
    quick: bool = False

    @property
    def name(self) -> str:
        """For example '256x100'."""
        return f"{self.batch}x{self.latents}"

    def reads(self, mode: Mode, element_size: int) -> tuple[Read, ...]:
        """The tensors that one call has to read or write.

        Inference: mu, logvar and z. Training has the gradients of all three besides, and reads mu and logvar a second
        time; z is not needed again, and the noise need not be kept.
        """
        tensor = self.batch * self.latents * element_size
        if mode == "infer":
            return (Read(3 * tensor, 1, 3 * tensor),)
        return (Read(6 * tensor, 1, 6 * tensor), Read(2 * tensor, 1, 6 * tensor))


VAE_CASES = (
    VaeCase(256, 100, quick=True),
    VaeCase(256, 2048),
    VaeCase(4096, 512, quick=True),
    VaeCase(32, 262144),
)
