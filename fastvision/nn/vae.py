"""The two layers of a variational autoencoder, which torch.nn does not have: its sample and its loss.

They hold options, no parameters: a state_dict has nothing of them. Formulas and their sources are in
`fastvision.ops.vae`.
"""

from numbers import Real

import torch
from torch import Tensor, nn

from fastvision.ops.vae import elbo_loss, reparameterize


def _one_of(names: tuple[str, ...], name: str, value: str) -> str:
    if value not in names:
        *others, last = map(repr, names)
        raise ValueError(f"{name}: expected {', '.join(others)} or {last}, got {value!r}")
    return value


def _number(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


class Reparameterize(nn.Module):
    """A differentiable sample of N(mu, exp(logvar)) in training, the mean of that distribution in eval mode.

    In training `fastvision.ops.reparameterize`: mu + eps exp(logvar / 2), eps ~ N(0, 1) (Kingma and Welling, 2013,
    arXiv:1312.6114). In eval mode mu, so that a network gives the same answer each time; call `.train()`, or the
    operator, for samples of a trained one.

    Args:
        rng: 'philox', fastvision's noise, or 'torch', that of torch.randn_like(logvar) in existing code, bit for bit,
            at the speed of stock.

    Shapes: mu and logvar any that broadcast; the result has their broadcast shape, in eval mode too.
    Dtypes: floating-point; mu's and logvar's promote.

    Raises:
        ValueError: at construction, where rng is neither.
        RuntimeError: at the call, where shapes do not broadcast or, in training, devices differ.
    """

    def __init__(self, rng: str = "philox") -> None:
        super().__init__()
        self.rng = _one_of(("philox", "torch"), "rng", rng)

    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if self.training:
            return reparameterize(mu, logvar, rng=self.rng)
        return torch.broadcast_tensors(mu, logvar)[0].to(torch.promote_types(mu.dtype, logvar.dtype))

    def extra_repr(self) -> str:
        return f"rng={self.rng!r}"


class ELBOLoss(nn.Module):
    """The loss of a variational autoencoder, its negative evidence lower bound: `fastvision.ops.elbo_loss`.

    R(recon, target) + beta * sum of max(KL, free_bits), KL = -1/2 (1 + logvar - mu^2 - exp(logvar)) of each element
    (Kingma and Welling, 2013, arXiv:1312.6114; beta of Higgins et al., "beta-VAE", 2017; free bits of Kingma et al.,
    2016, arXiv:1606.04934). Attributes are those of the arguments, and may be changed between calls: to let beta rise
    from epoch to epoch, say.

    Args:
        reconstruction: R is 'mse', (recon - target)^2, 'bce', binary cross-entropy, or 'bce_with_logits', the same of
            sigmoid(recon).
        beta: weight of KL.
        free_bits: KL of an element (one latent of one sample) counts as this many nats at least, and has no gradient
            below.
        reduction: 'sum' of R over recon's elements and of KL over mu's; 'mean', either's own mean; 'batchmean', either
            sum divided by the size of its own first dimension, the batch.

    Shapes: recon and target alike, for 'bce' of values in [0, 1]; with 'mse' target may broadcast. mu and logvar any
    that broadcast. The result has no dimensions.
    Dtypes: floating-point; all four promote. Under autocast float32, as stock's losses.

    Raises:
        ValueError: at construction, where reconstruction or reduction is none of these or free_bits is negative; at
            the call, where recon and target differ in shape with a binary cross-entropy, or there is no first
            dimension to divide by.
        TypeError: at construction, where beta or free_bits is not a number.
        RuntimeError: at the call, where shapes do not fit each other, devices differ, or with 'bce' a value of recon
            lies outside [0, 1].
    """

    def __init__(
        self, reconstruction: str = "mse", beta: float = 1.0, free_bits: float = 0.0, reduction: str = "sum"
    ) -> None:
        super().__init__()
        self.reconstruction = _one_of(("mse", "bce", "bce_with_logits"), "reconstruction", reconstruction)
        self.beta = _number("beta", beta)
        self.free_bits = _number("free_bits", free_bits)
        if not self.free_bits >= 0:  # NaN included
            raise ValueError(f"free_bits: expected a number of at least 0, got {free_bits}")
        self.reduction = _one_of(("sum", "mean", "batchmean"), "reduction", reduction)

    def forward(self, recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return elbo_loss(
            recon,
            target,
            mu,
            logvar,
            reconstruction=self.reconstruction,
            beta=self.beta,
            free_bits=self.free_bits,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return (
            f"reconstruction={self.reconstruction!r}, beta={self.beta}, free_bits={self.free_bits}, "
            f"reduction={self.reduction!r}"
        )
