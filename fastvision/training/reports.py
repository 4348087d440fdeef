"""What is said of a trained model on images that it has not seen."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastvision.data import ImageDataset, batches
from fastvision.models.vae import VAE, ConvVAE
from fastvision.training.loop import EVALUATION_BATCH_SIZE, Precision, autocast, check_not_empty, eval_mode

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassReport:
    """Of one class: shares from 0 to 1, and how many images are of it.

    Attributes:
        precision: Of the images predicted as this class, the share that is; 0 where none is predicted so.
        recall: Of the images of this class, the share predicted as such; 0 where there is none.
        f1: Harmonic mean of both.
        images: How many there are.
    """

    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose most probable class has a probability within a range: its mean, the share recognised, the number."""

    confidence: float
    accuracy: float
    images: int


@dataclass(frozen=True)
class ClassificationReport:
    """How well a classifier recognises a set.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Share of the images recognised, 0 to 1.
        classes: By name.
        confusion: Row i, column j: how many images of class i were predicted as class j.
        calibration_error: Expected calibration error, 0 to 1: the mean distance of confidence and accuracy in bins of
            equal width, weighted by their images (Guo et al., "On Calibration of Modern Neural Networks", 2017,
            arXiv:1706.04599).
        calibration: The bins that have images, from low to high confidence.
    """

    loss: float
    accuracy: float
    classes: dict[str, ClassReport]
    confusion: list[list[int]]
    calibration_error: float
    calibration: list[CalibrationBin]


@dataclass(frozen=True)
class AutoencoderReport:
    """How well an autoencoder describes a set; means over images, with one sample of each image's latents.

    Attributes:
        negative_elbo: What training minimises, in nats.
        kl: The part of it that is the divergence of the latents from N(0, 1), in nats.
        mean_squared_error: Of the reconstruction, per pixel, of values from 0 to 1.
        cross_entropy: Of the reconstruction, in nats, summed over the pixels.
    """

    negative_elbo: float
    kl: float
    mean_squared_error: float
    cross_entropy: float


def classification_report(scores: Tensor, dataset: ImageDataset) -> ClassificationReport:
    """Compares scores (logits) ``(N, classes)`` of all images, as `predict` gives them, with their labels.

    Raises:
        ValueError: Where there are no images, or scores have not one row per image and one column per class.
    """
    check_not_empty("classification_report", dataset)
    expected = (len(dataset), len(dataset.classes))
    if scores.shape != expected:
        raise ValueError(f"classification_report: scores: expected shape {expected}, got {tuple(scores.shape)}")
    labels, count = dataset.labels, len(dataset.classes)
    confidence, predicted = scores.double().softmax(-1).max(-1)
    confusion = torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)
    right = predicted == labels
    bins = _calibration(confidence, right)
    return ClassificationReport(
        loss=F.cross_entropy(scores.double(), labels).item(),
        accuracy=right.double().mean().item(),
        classes=dict(zip(dataset.classes, _class_reports(confusion), strict=True)),
        confusion=confusion.tolist(),
        calibration_error=sum(abs(bin.confidence - bin.accuracy) * bin.images for bin in bins) / len(dataset),
        calibration=bins,
    )


def autoencoder_report(
    model: VAE | ConvVAE, dataset: ImageDataset, seed: int = 0, precision: Precision = "fp32"
) -> AutoencoderReport:
    """Runs an autoencoder on all images; its noise depends only on `seed`.

    Raises:
        ValueError: Where there are no images.
    """
    check_not_empty("autoencoder_report", dataset)
    device = model.mu.weight.device
    sums = torch.zeros(4, dtype=torch.float64)
    with eval_mode(model), torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for images, _ in batches(dataset, EVALUATION_BATCH_SIZE):
            images = images.to(device)
            with autocast(device, precision):
                recon, mu, logvar = model(images)
                loss = model.loss(recon, images, mu, logvar)
            mu, logvar = mu.double(), logvar.double()
            kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
            pixels = model.pixels(recon.float())
            distance = F.mse_loss(pixels, images, reduction="sum") / images[0].numel()
            cross_entropy = F.binary_cross_entropy(pixels, images, reduction="sum")
            sums += torch.stack([loss.double() * len(images), kl, distance.double(), cross_entropy.double()]).cpu()
    return AutoencoderReport(*(sums / len(dataset)).tolist())


def _class_reports(confusion: Tensor) -> list[ClassReport]:
    """Of each class. A ratio of nothing to nothing is 0."""
    right, images, predicted = (x.double() for x in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    values = (right / predicted, right / images, 2 * right / (images + predicted))
    columns = (value.nan_to_num(0).tolist() for value in values)
    return [ClassReport(*row) for row in zip(*columns, confusion.sum(1).tolist(), strict=True)]


def _calibration(confidence: Tensor, right: Tensor) -> list[CalibrationBin]:
    index = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1  # each bin has its upper end
    chosen = [index == bin for bin in index.unique()]
    return [
        CalibrationBin(confidence[bin].mean().item(), right[bin].double().mean().item(), int(bin.sum()))
        for bin in chosen
    ]
