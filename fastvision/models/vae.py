"""Variational autoencoders of images, dense and convolutional, with stock layers for the sample and the loss or fused.

Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.
"""

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from fastvision.nn import ELBOLoss, Reparameterize

RECONSTRUCTIONS = {"bernoulli": "bce_with_logits", "gaussian": "mse"}
Likelihood = Literal["bernoulli", "gaussian"]
CHANNELS = (32, 64)


class _StockReparameterize(nn.Module):
    """What `fastvision.nn.Reparameterize` does in training, as it is written in stock PyTorch."""

    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return mu + torch.randn_like(logvar) * torch.exp(0.5 * logvar)


class _StockELBOLoss(nn.Module):
    """What `fastvision.nn.ELBOLoss` computes with ``reduction="batchmean"``, as it is written in stock PyTorch."""

    def __init__(self, reconstruction: str) -> None:
        super().__init__()
        self.distance = {"bce_with_logits": F.binary_cross_entropy_with_logits, "mse": F.mse_loss}[reconstruction]

    def forward(self, recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return (self.distance(recon, target, reduction="sum") + kl) / len(recon)


class _ImageVAE(nn.Module):
    """What the autoencoders share: everything but the layers that read an image and those that draw one.

    Attributes:
        reparameterize: draws z from mu and logvar.
        loss: the negative evidence lower bound per image in nats, from what `forward` returns and the images.
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        features: int,
        decoder: nn.Sequential,
        *,
        latent_size: int,
        likelihood: Likelihood,
        fused: bool,
        rng: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if likelihood not in RECONSTRUCTIONS:
            known = ", ".join(RECONSTRUCTIONS)
            raise ValueError(f"{type(self).__name__}: likelihood: expected one of {known}, got {likelihood!r}")
        reconstruction = RECONSTRUCTIONS[likelihood]
        self.latent_size = latent_size
        self.likelihood = likelihood
        self.encoder = encoder
        self.mu = nn.Linear(features, latent_size, device=device, dtype=dtype)
        self.logvar = nn.Linear(features, latent_size, device=device, dtype=dtype)
        self.decoder = decoder
        self.reparameterize = Reparameterize(rng) if fused else _StockReparameterize()
        self.loss = ELBOLoss(reconstruction, reduction="batchmean") if fused else _StockELBOLoss(reconstruction)

    def train(self, mode: bool = True) -> "_ImageVAE":
        super().train(mode)
        self.reparameterize.train()  # the bound is an expectation over z, in evaluation as well
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(recon, mu, logvar)``, with z drawn in eval mode as well; recon is what `decode` returns."""
        mu, logvar = self.encode(images)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents, each ``(N, latent_size)``."""
        features = self.encoder(images)
        return self.mu(features), self.logvar(features)

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, latent_size)`` to ``(N, C, H, W)``: logits of the pixels (Bernoulli) or their means."""
        return self.decoder(z)

    @torch.no_grad()
    def generate(self, z: Tensor) -> Tensor:
        """The images ``(N, C, H, W)``, from 0 to 1, that latents ``(N, latent_size)`` stand for: pixels' means."""
        return self.pixels(self.decode(z))

    def pixels(self, recon: Tensor) -> Tensor:
        """What `decode` returns as pixels' means, from 0 to 1."""
        return recon.sigmoid() if self.likelihood == "bernoulli" else recon.clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """The images after encoding to the latents' means and decoding; nothing is drawn."""
        return self.generate(self.encode(images)[0])

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` new images ``(n, C, H, W)``, of latents from N(0, 1); `generator` is of the parameters' device."""
        weight = self.mu.weight
        return self.generate(
            torch.randn(n, self.latent_size, generator=generator, device=weight.device, dtype=weight.dtype)
        )

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """From images `a` to images `b`, both ``(N, C, H, W)``, along a line between their latents' means.

        Returns:
            ``(N, steps, C, H, W)``; the first is the reconstruction of `a`, the last that of `b`.
        """
        start, end = self.encode(a)[0], self.encode(b)[0]
        share = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)[:, None]
        z = torch.lerp(start[:, None], end[:, None], share)
        return self.generate(z.flatten(0, 1)).unflatten(0, (len(a), steps))


class VAE(_ImageVAE):
    """A variational autoencoder of dense layers: pixels - hidden - latents - hidden - pixels, with ReLU.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        hidden_size: Features of the layer on either side of the latents.
        latent_size: Latents of an image.
        likelihood: Of a pixel: ``"bernoulli"`` for values from 0 to 1, or ``"gaussian"``, with variance 1/2 and without
            the constant of its normalisation.
        fused: Chooses `fastvision.nn.Reparameterize` and `ELBOLoss`; otherwise the stock calls that they replace, with
            the same state_dict.
        rng: Whose noise the fused sample has, ``"philox"`` or ``"torch"``, as in `fastvision.nn.Reparameterize`.
        device: Of the parameters, as in ``torch.nn``.
        dtype: Of the parameters, as in ``torch.nn``.

    Shape:
        Input ``(N, C, H, W)`` from 0 to 1, of the parameters' dtype. Output, of the same dtype: recon as the input, mu
        and logvar ``(N, latent_size)``.

    Raises:
        ValueError: Where ``likelihood`` or ``rng`` is none of these.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden_size: int = 400,
        latent_size: int = 100,
        *,
        likelihood: Likelihood = "bernoulli",
        fused: bool = True,
        rng: str = "philox",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        pixels = math.prod(image_shape)
        super().__init__(
            nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden_size, **factory), nn.ReLU()),
            hidden_size,
            nn.Sequential(
                nn.Linear(latent_size, hidden_size, **factory),
                nn.ReLU(),
                nn.Linear(hidden_size, pixels, **factory),
                nn.Unflatten(-1, image_shape),
            ),
            latent_size=latent_size,
            likelihood=likelihood,
            fused=fused,
            rng=rng,
            **factory,
        )


class ConvVAE(_ImageVAE):
    """A variational autoencoder of convolutions, which ``fastvision.convert`` makes fast.

    Two 3x3 convolutions of stride 2 with ReLU, to 32 and 64 channels, halve each side twice, and dense layers give the
    latents. On the way back a dense layer with ReLU, then twice: double each side by repeating pixels, and a 3x3
    convolution, the first with ReLU.

    Arguments, shapes and errors are those of :class:`VAE`, without ``hidden_size``.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        latent_size: int = 100,
        *,
        likelihood: Likelihood = "bernoulli",
        fused: bool = True,
        rng: str = "philox",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        channels, height, width = image_shape
        first, second = CHANNELS
        half = (math.ceil(height / 2), math.ceil(width / 2))
        quarter = (math.ceil(half[0] / 2), math.ceil(half[1] / 2))
        features = second * math.prod(quarter)
        super().__init__(
            nn.Sequential(
                nn.Conv2d(channels, first, 3, stride=2, padding=1, **factory),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1, **factory),
                nn.ReLU(),
                nn.Flatten(),
            ),
            features,
            nn.Sequential(
                nn.Linear(latent_size, features, **factory),
                nn.ReLU(),
                nn.Unflatten(-1, (second, *quarter)),
                nn.Upsample(half),  # of odd sides the last pixel is not doubled
                nn.Conv2d(second, first, 3, padding=1, **factory),
                nn.ReLU(),
                nn.Upsample((height, width)),
                nn.Conv2d(first, channels, 3, padding=1, **factory),
            ),
            latent_size=latent_size,
            likelihood=likelihood,
            fused=fused,
            rng=rng,
            **factory,
        )
