"""Trains a variational autoencoder with stock layers, sample and loss and with fastvision's, and measures both."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastvision
from fastvision.data import ImageDataset, batches
from fastvision.models import VAE
from fastvision.training.comparison import BATCH_SIZE, train_in_turns
from fastvision.training.loop import EVALUATION_BATCH_SIZE, Progress, Trainer, evaluate
from fastvision.training.measure import Timing, measure_calls
from fastvision.training.objectives import negative_elbo

LEARNING_RATE = 2e-3
LEARNING_RATE_DECAY = 0.93
STEP_BATCH_SIZE = 256


@dataclass(frozen=True)
class VAEImplementation:
    """What was measured of one implementation.

    Attributes:
        negative_elbo: Of the test images, nats per image.
        epoch: Duration of a training epoch.
        step: Duration of the sample, the loss and their backward pass, for a batch of 256.
    """

    negative_elbo: float
    epoch: Timing
    step: Timing


@dataclass(frozen=True)
class VAEComparison:
    """What :func:`compare_vae` found.

    Attributes:
        stock, fastvision: The two implementations.
        largest_difference: Between the two implementations' outputs for the test images, the pixels' logits, with the
            same trained weights and the same noise.
        largest_output: Largest magnitude among these outputs, to judge the difference by.
        loss_difference: Between the two implementations' negative ELBO of the test images, likewise.
        epochs: Epochs that both were trained for.
        model: The trained model with fastvision's layers, in eval mode.
    """

    stock: VAEImplementation
    fastvision: VAEImplementation
    largest_difference: float
    largest_output: float
    loss_difference: float
    epochs: int
    model: VAE


def compare_vae(
    train_set: ImageDataset,
    test_set: ImageDataset,
    epochs: int,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    time_limit: float = math.inf,
    on_batch: Callable[[str, Progress], None] | None = None,
    on_measure: Callable[[str], None] | None = None,
) -> VAEComparison:
    """Trains :class:`fastvision.models.VAE` with stock layers and calls and with fastvision's, and measures both.

    Both start from the same weights and see the same images in the same order, an epoch in turn. Their noise differs:
    fastvision's sample has a generator of its own.

    The arguments are those of :func:`fastvision.training.compare`.
    """
    models = [build_vae(train_set, fused=fused, seed=seed).to(device) for fused in (False, True)]
    trainers = [
        Trainer(
            model,
            train_set,
            objective=negative_elbo,
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            learning_rate_decay=LEARNING_RATE_DECAY,
            seed=seed,
        )
        for model in models
    ]
    epoch_timings = train_in_turns(trainers, epochs, time_limit, on_batch)
    for model in models:
        model.eval()

    announce = on_measure or (lambda what: None)
    announce("negative ELBO and output difference")
    losses = [evaluate(model, test_set, negative_elbo).loss for model in models]
    same_noise = build_vae(train_set, fused=True, rng="torch").to(device).eval()
    same_noise.load_state_dict(models[0].state_dict())
    expected, found = outputs(models[0], test_set), outputs(same_noise, test_set)

    announce("latency")
    steps = measure_calls([loss_step(model, test_set.image_shape) for model in models])
    measured = zip(losses, epoch_timings, steps, strict=True)
    stock, ours = (VAEImplementation(*values) for values in measured)
    return VAEComparison(
        stock=stock,
        fastvision=ours,
        largest_difference=(found - expected).abs().max().item(),
        largest_output=expected.abs().max().item(),
        loss_difference=abs(evaluate(same_noise, test_set, negative_elbo).loss - losses[0]),
        epochs=trainers[0].epochs_done,
        model=models[1],
    )


def build_vae(dataset: ImageDataset, *, fused: bool, rng: str = "philox", seed: int = 0) -> VAE:
    """A new autoencoder for the images of `dataset`; the same seed gives the same weights.

    `fused` chooses fastvision's layers, sample and loss instead of stock's.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(dataset.image_shape, fused=fused, rng=rng)
    return fastvision.convert(model) if fused else model


def outputs(model: nn.Module, dataset: ImageDataset, seed: int = 0) -> Tensor:
    """What `model` decodes every image to, on the CPU, with noise that depends only on `seed`."""
    device = next(model.parameters()).device
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([model(images.to(device))[0].cpu() for images, _ in batches(dataset, EVALUATION_BATCH_SIZE)])


def loss_step(model: VAE, image_shape: tuple[int, int, int]) -> Callable[[], object]:
    """What a training step does between the encoder and the decoder's output, on random tensors: 256 images.

    The sample, the loss and the gradients of mu, logvar and the decoder's output.
    """
    device = model.mu.weight.device
    images = torch.rand(STEP_BATCH_SIZE, *image_shape, device=device)
    recon = torch.randn_like(images).requires_grad_()
    mu, logvar, grad_z = torch.randn(3, STEP_BATCH_SIZE, model.latent_size, device=device).unbind()
    leaves = [recon, mu.requires_grad_(), logvar.requires_grad_()]

    def step() -> object:
        z = model.reparameterize(mu, logvar)
        loss = model.loss(recon, images, mu, logvar)
        return torch.autograd.grad([loss, z], leaves, [None, grad_z])

    return step
