"""The variational autoencoders of the application."""

import math

import pytest
import torch

import fastvision
from fastvision.models import VAE, ConvVAE

every_model = pytest.mark.parametrize("model_class", [VAE, ConvVAE])
every_likelihood = pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])


def autoencoder(model_class=VAE, image_shape=(1, 9, 6), **options):
    """Few latents and, by default, sides that halves don't fit."""
    torch.manual_seed(0)
    return model_class(image_shape, latent_size=5, **options)


def images_of(image_shape=(1, 9, 6), count=4) -> torch.Tensor:
    return torch.rand(count, *image_shape, generator=torch.Generator().manual_seed(0))


@every_model
@pytest.mark.parametrize("image_shape", [(1, 9, 6), (3, 8, 8)])
def test_shapes(model_class, image_shape):
    model = autoencoder(model_class, image_shape)
    images = images_of(image_shape)
    recon, mu, logvar = model(images)
    assert recon.shape == images.shape
    assert mu.shape == logvar.shape == (4, 5)
    assert model.reconstruct(images).shape == images.shape
    assert model.sample(3).shape == (3, *image_shape)
    assert model.interpolate(images, images, 6).shape == (4, 6, *image_shape)


@every_model
@every_likelihood
def test_stock_and_fused_compute_the_same(model_class, likelihood):
    """Given torch's noise in both: outputs, loss and gradients."""
    stock = autoencoder(model_class, likelihood=likelihood, fused=False)
    fused = autoencoder(model_class, likelihood=likelihood, rng="torch")
    assert list(stock.state_dict()) == list(fused.state_dict())
    images = images_of()
    results = []
    for model in (stock, fused):
        torch.manual_seed(3)
        recon, mu, logvar = model(images)
        loss = model.loss(recon, images, mu, logvar)
        results.append((recon, loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@every_likelihood
def test_loss_is_the_negative_elbo_per_image(likelihood):
    model = autoencoder(likelihood=likelihood).double()
    images = images_of().double()
    recon, mu, logvar = model(images)
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mu, (logvar / 2).exp()), prior)
    if likelihood == "bernoulli":
        log_likelihood = images * recon.sigmoid().log() + (1 - images) * (1 - recon.sigmoid()).log()
    else:
        constant = math.log(math.pi) / 2
        log_likelihood = torch.distributions.Normal(recon, math.sqrt(0.5)).log_prob(images) + constant
    torch.testing.assert_close(model.loss(recon, images, mu, logvar), (kl.sum() - log_likelihood.sum()) / 4)


@pytest.mark.parametrize("fused", [False, True])
def test_forward_draws_in_eval_mode_and_reconstruct_does_not(fused):
    model = autoencoder(fused=fused).train().eval()
    images = images_of()
    assert not torch.equal(model(images)[0], model(images)[0])
    assert torch.equal(model.reconstruct(images), model.reconstruct(images))


@every_likelihood
def test_reconstructions_are_the_pixels_means(likelihood):
    model = autoencoder(likelihood=likelihood)
    images = images_of()
    decoded = model.decode(model.encode(images)[0])
    expected = decoded.sigmoid() if likelihood == "bernoulli" else decoded.clamp(0, 1)
    torch.testing.assert_close(model.reconstruct(images), expected)
    assert not model.reconstruct(images).requires_grad


def test_interpolation_is_a_line_of_latents():
    model = autoencoder()
    a, b = images_of(count=3), images_of(count=6)[3:]
    steps = model.interpolate(a, b, 3)
    torch.testing.assert_close(steps[:, 0], model.reconstruct(a))
    torch.testing.assert_close(steps[:, 2], model.reconstruct(b))
    middle = (model.encode(a)[0] + model.encode(b)[0]) / 2
    torch.testing.assert_close(steps[:, 1], model.generate(middle))


def test_samples_come_from_the_prior_by_their_generator():
    model = autoencoder()
    latents = torch.randn(3, 5, generator=torch.Generator().manual_seed(7))
    samples = model.sample(3, torch.Generator().manual_seed(7))
    torch.testing.assert_close(samples, model.generate(latents))


@every_model
def test_dtype_and_device(model_class):
    model = model_class(dtype=torch.float64, device="meta")
    assert {(parameter.dtype, parameter.device.type) for parameter in model.parameters()} == {(torch.float64, "meta")}


@pytest.mark.parametrize(("option", "message"), [({"likelihood": "poisson"}, "likelihood"), ({"rng": "mt"}, "rng")])
def test_refuses_other_options(option, message):
    with pytest.raises(ValueError, match=f"{message}: expected .*, got '{option[message]}'"):
        VAE(**option)


def test_convolutions_convert():
    model = autoencoder(ConvVAE, rng="torch")
    converted = fastvision.convert(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert fastvision.explain(converted).count("replaced") == 8  # convolutions, one of them alone, and fully connected
    images = images_of()
    torch.testing.assert_close(converted.reconstruct(images), model.reconstruct(images), atol=1e-5, rtol=1e-5)
