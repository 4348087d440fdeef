"""A case of the vae family made concrete: tensors, what is called, and the right answer to what is random."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastvision.bench.case_task import CaseTask
from fastvision.bench.checking import as_tensors
from fastvision.bench.conv_cases import Mode
from fastvision.bench.limits import Read
from fastvision.bench.vae_cases import VaeCase
from fastvision.ops import reparameterize_kl

# The first four moments of N(0, 1), and the standard deviations of what they are the means of.
_MOMENTS = (0.0, 1.0, 0.0, 3.0)
_DEVIATIONS = (1.0, 2.0**0.5, 15.0**0.5, 96.0**0.5)
_STANDARD_ERRORS = 6.0  # which chance hardly exceeds once in 100 million, with a case's many elements


class StockSample(nn.Module):
    """A sample and the sum of KL, as they are written in stock PyTorch."""

    def forward(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return z, -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


class FastvisionSample(nn.Module):
    """The same by fastvision's operator."""

    def forward(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        return reparameterize_kl(mu, logvar)


@dataclass(frozen=True)
class VaeTask(CaseTask):
    """A case with a mode, a thread count and random tensors.

    mu, logvar and grad_z, the gradient of the sample, are (batch, latents), grad_kl has no dimensions. All are of the
    task's dtype.
    """

    case: VaeCase
    mode: Mode
    threads: int
    mu: Tensor
    logvar: Tensor
    grad_z: Tensor
    grad_kl: Tensor

    @classmethod
    def random(
        cls, case: VaeCase, mode: Mode, *, dtype: torch.dtype = torch.float32, threads: int = 1, seed: int = 0
    ) -> "VaeTask":
        """Normally distributed tensors; grad_kl is what a beta of 0.5 would give."""
        generator = torch.Generator().manual_seed(seed)
        mu, logvar, grad_z = (torch.randn(case.batch, case.latents, generator=generator).to(dtype) for _ in range(3))
        return cls(case, mode, threads, mu, logvar, grad_z, torch.tensor(0.5, dtype=dtype))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the module is called on."""
        return (self.mu, self.logvar)

    @property
    def flops(self) -> int:
        """None: what an element of the noise takes differs from one generator to the other."""
        return 0

    @property
    def reads(self) -> tuple[Read, ...]:
        """The tensors that one call has to read or write."""
        return self.case.reads(self.mode, self.dtype.itemsize)

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what is compared."""
        return ("kl", "noise_moments") if self.mode == "infer" else ("kl", "noise_moments", "grad_mu", "grad_logvar")

    def stock_module(self) -> nn.Module:
        """The stock formulas."""
        return StockSample()

    def fastvision_module(self) -> nn.Module:
        """The same as fastvision runs it."""
        return FastvisionSample()

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of a module on this task's tensors: z, kl, and in training the gradients of mu and logvar."""
        mu, logvar = leaves = [tensor.clone().requires_grad_(self.mode == "train") for tensor in self.inputs]
        gradients = (self.grad_z, self.grad_kl)

        def forward() -> tuple[Tensor, ...]:
            return module(mu, logvar)

        def step() -> tuple[Tensor, ...]:
            results = module(mu, logvar)
            return (*results, *torch.autograd.grad(results, leaves, gradients))

        return step if self.mode == "train" else forward

    def as_results(self, returned: object) -> tuple[Tensor, ...]:
        """What does not depend on the noise that the peer drew.

        The noise is recovered from z: of it there are the moments. Its part in the gradient of logvar,
        grad_z eps exp(logvar / 2) / 2, is taken off there.
        """
        z, kl, *gradients = (tensor.detach() for tensor in as_tensors(returned))
        scaled_noise = z.double() - self.mu.double()
        results = (kl, noise_moments(scaled_noise / torch.exp(self.logvar.double() / 2)))
        if not gradients:
            return results
        grad_mu, grad_logvar = gradients
        return (*results, grad_mu, grad_logvar.double() - self.grad_z.double() * scaled_noise / 2)

    def reference(self) -> tuple[Tensor, ...]:
        """All results in float64."""
        mu, logvar = self.mu.double(), self.logvar.double()
        variance = logvar.exp()
        results = (-0.5 * (1 + logvar - mu.square() - variance).sum(), torch.tensor(_MOMENTS, dtype=torch.float64))
        if self.mode == "infer":
            return results
        grad_kl = self.grad_kl.double()
        return (*results, self.grad_z.double() + grad_kl * mu, grad_kl * (variance - 1) / 2)


def noise_moments(noise: Tensor) -> Tensor:
    """The first four moments (float64), those of N(0, 1) in the place of those that chance explains."""
    found = torch.stack([noise.pow(power).mean() for power in (1, 2, 3, 4)])
    expected, deviations = (torch.tensor(values, dtype=torch.float64) for values in (_MOMENTS, _DEVIATIONS))
    is_chance = (found - expected).abs() <= _STANDARD_ERRORS * deviations / noise.numel() ** 0.5
    return torch.where(is_chance, expected, found)
