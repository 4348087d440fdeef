"""The variational autoencoder's operators: the reparameterised sample, its KL divergence, and the ELBO.

An encoder gives mu and logvar of a normal distribution for every latent (Kingma and Welling, "Auto-Encoding Variational
Bayes", 2013, arXiv:1312.6114). A sample, differentiable in both, and the Kullback-Leibler divergence from N(0, 1):

    z = mu + eps exp(logvar / 2),  eps ~ N(0, 1)
    KL = -1/2 (1 + logvar - mu^2 - exp(logvar))

The loss is the negative evidence lower bound, with the weight beta of Higgins et al. ("beta-VAE", 2017) and the free
bits of Kingma et al. ("Improved Variational Inference with Inverse Autoregressive Flow", 2016, arXiv:1606.04934), here
of each latent of each sample:

    loss = R(recon, target) + beta sum_j max(KL_j, free_bits)

float32, bfloat16 and float16 have kernels, which compute in float32 and round once; other dtypes run the reference.

The noise is fastvision's own, which is not torch's: Philox4x32-10 and the method of Box and Muller, in float32, up to
6.66 in magnitude. Each call draws a seed of 128 bits from the generator, once, under its lock. torch.manual_seed and a
generator's state thus determine the noise, calls from many threads have different noise, and an element's noise depends
on the seed and the element's index alone: not on the number of threads, the instruction set, the dtype, or whether this
is a CPU or a GPU. Backward draws the same noise again instead of keeping it. (torch.func's transforms draw by
torch.randn, because they have rules of their own for random numbers.)
"""

import torch
from torch import Generator, Tensor

from fastvision._calls import PreparedCall

_reparameterize = torch.ops.fastvision.reparameterize.default
_reparameterize_kl = torch.ops.fastvision.reparameterize_kl.default
_reparameterize_reference = torch.ops.fastvision.reparameterize_reference.default
_sample = PreparedCall(_reparameterize, 2)
_sample_and_kl = {
    reduction: PreparedCall(_reparameterize_kl, 2, reduction=reduction)
    for reduction in ("sum", "mean", "batchmean", "none")
}
_elbo_loss = torch.ops.fastvision.elbo_loss.default
_elbo_loss_reference = torch.ops.fastvision.elbo_loss_reference.default


def reparameterize(mu: Tensor, logvar: Tensor, *, generator: Generator | None = None, rng: str = "philox") -> Tensor:
    """A sample of N(mu, exp(logvar)), differentiable in both: mu + eps * exp(0.5 * logvar).

    Args:
        mu: mean, any shape and floating-point dtype.
        logvar: logarithm of the variance. Broadcasts with mu, and dtypes promote, as in stock arithmetic.
        generator: where the noise comes from, of mu's device type; None means torch's default generator.
        rng: 'philox', fastvision's noise, or 'torch', that of torch.randn_like(logvar) in existing code, bit for bit,
            at the speed of stock.

    Returns:
        z in the broadcast shape; each of its elements has noise of its own.

    Raises:
        RuntimeError: shapes do not broadcast, or devices differ.
        ValueError: rng is neither.
    """
    if _draws_by_torch(rng):
        noise = _torch_noise(mu, logvar, generator)
        return _reparameterize_reference(mu, logvar, noise)[0]
    if generator is None:
        return _sample(mu, logvar)
    return _reparameterize(mu, logvar, generator=generator)


def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    reduction: str = "sum",
    generator: Generator | None = None,
    rng: str = "philox",
) -> tuple[Tensor, Tensor]:
    """A sample of N(mu, exp(logvar)) and the KL divergence of that distribution from N(0, 1).

    Args:
        mu, logvar, generator, rng: as in `reparameterize`.
        reduction: 'sum' of KL over all elements, their 'mean', 'batchmean' (the sum divided by the size of the first
            dimension), or 'none', KL of each element. Sums are kept in float64 and rounded to the result's dtype.

    Returns:
        z, in the broadcast shape of mu and logvar.
        kl, without dimensions, or shaped as z for 'none'; z's dtype.

    Raises:
        RuntimeError: shapes do not broadcast, or devices differ.
        ValueError: reduction or rng is none of these, or there is no first dimension to divide by.
    """
    if _draws_by_torch(rng):
        return _reparameterize_reference(mu, logvar, _torch_noise(mu, logvar, generator), reduction)
    if generator is None and reduction in _sample_and_kl:
        return _sample_and_kl[reduction](mu, logvar)
    return _reparameterize_kl(mu, logvar, reduction=reduction, generator=generator)


def reparameterize_kl_reference(
    mu: Tensor, logvar: Tensor, noise: Tensor, *, reduction: str = "sum"
) -> tuple[Tensor, Tensor]:
    """What `reparameterize_kl` computes, by stock PyTorch calls alone, from eps as an argument."""
    return _reparameterize_reference(mu, logvar, noise, reduction)


def reparameterize_reference(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """What `reparameterize` computes, by stock PyTorch calls alone, from eps as an argument."""
    return _reparameterize_reference(mu, logvar, noise)[0]


def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    reconstruction: str = "mse",
    beta: float = 1.0,
    free_bits: float = 0.0,
    reduction: str = "sum",
) -> Tensor:
    """The negative evidence lower bound of a variational autoencoder: R(recon, target) + beta * KL(mu, logvar).

    Args:
        recon: the decoder's output, any shape and floating-point dtype; for 'bce' values in [0, 1].
        target: what it should have been, recon's shape; with 'mse' it may broadcast.
        mu, logvar: the encoder's outputs; their shapes broadcast. All dtypes promote.
        reconstruction: R is 'mse', (recon - target)^2, 'bce', binary cross-entropy, or 'bce_with_logits', the same of
            sigmoid(recon); as torch.nn.functional's mse_loss, binary_cross_entropy, and
            binary_cross_entropy_with_logits compute them.
        beta: weight of KL.
        free_bits: KL of an element (one latent of one sample) counts as this many nats at least, and has no gradient
            below; 0 means that it counts as it is.
        reduction: 'sum' of R over recon's elements and of KL over mu's; 'mean', either's own mean; 'batchmean', either
            sum divided by the size of its own first dimension, the batch.

    Returns:
        The loss, without dimensions.

    Raises:
        RuntimeError: shapes do not fit each other, devices differ, or with 'bce' a value of recon lies outside [0, 1].
        ValueError: an option is none of these, free_bits is negative, with a binary cross-entropy recon and target
            differ in shape, or there is no first dimension to divide by.
    """
    return _elbo_loss(
        recon,
        target,
        mu,
        logvar,
        reconstruction=reconstruction,
        beta=beta,
        free_bits=free_bits,
        reduction=reduction,
    )


def elbo_loss_reference(
    recon: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    reconstruction: str = "mse",
    beta: float = 1.0,
    free_bits: float = 0.0,
    reduction: str = "sum",
) -> Tensor:
    """What `elbo_loss` computes, by stock PyTorch calls alone."""
    return _elbo_loss_reference(recon, target, mu, logvar, reconstruction, beta, free_bits, reduction)


def _draws_by_torch(rng: str) -> bool:
    if rng not in ("philox", "torch"):
        raise ValueError(f"rng: expected 'philox' or 'torch', got {rng!r}")
    return rng == "torch"


def _torch_noise(mu: Tensor, logvar: Tensor, generator: Generator | None) -> Tensor:
    # As torch.randn_like(exp(0.5 * logvar)) where the shapes are equal.
    # Dynamo does not trace torch.result_type.
    dtype = mu.dtype if mu.dtype == logvar.dtype else (mu + logvar).dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        dtype = torch.get_default_dtype()
    if mu.shape == logvar.shape and generator is None:
        return torch.randn_like(logvar, dtype=dtype)
    shape = torch.broadcast_shapes(mu.shape, logvar.shape)
    return torch.randn(shape, generator=generator, dtype=dtype, device=mu.device)
