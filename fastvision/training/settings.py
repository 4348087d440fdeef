"""What a training run trains, and how: all that its result depends on besides the images and the number of epochs."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

import fastvision
from fastvision.models import PRESETS, VAE, ConvVAE, RecognitionCNN, SequenceClassifier
from fastvision.models.vae import Likelihood
from fastvision.nn import AffineAugment
from fastvision.training.loop import Precision
from fastvision.training.optimizers import OptimizerName

Kind = Literal["recognition", "sequence", "vae"]
# The models of each kind, the first of which is the default.
VARIANTS: dict[str, tuple[str, ...]] = {
    "recognition": ("medium", *(name for name in PRESETS if name != "medium")),
    "sequence": ("gru", "lstm", "bigru", "bilstm"),
    "vae": ("dense", "conv"),
}
HIDDEN_SIZE = 128  # of a recurrent layer
# Of fastvision.nn.AffineAugment: degrees, and fractions of the size.
AUGMENTATION = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}


@dataclass(frozen=True)
class Settings:
    """The model's settings and :class:`fastvision.training.Trainer`'s.

    Attributes:
        kind: ``"recognition"`` is the recognition CNN, ``"sequence"`` a recurrent layer that reads sequences, or
            images row by row, ``"vae"`` a variational autoencoder, which has no dropout.
        variant: One of the kind's VARIANTS; None is the first. Of the CNN a preset of width and depth, of the
            recurrent layer its cell, with ``bi`` in both directions, of the autoencoder its layers.
        likelihood: Of the autoencoder's pixels.
        stock: Whether to train stock layers rather than fastvision's.
        augment: Whether each epoch sees every image by another draw of AUGMENTATION.

    Raises:
        ValueError: Where there is no such variant.
    """

    kind: Kind
    batch_size: int = 64
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-3
    l1: float = 0.0
    l2: float = 0.0
    dropout: float = 0.0
    precision: Precision = "fp32"
    seed: int = 0
    variant: str | None = None
    likelihood: Likelihood = "bernoulli"
    stock: bool = False
    learning_rate_decay: float = 1.0
    augment: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"Settings: kind: expected one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        known = VARIANTS[self.kind]
        if self.variant is None:
            object.__setattr__(self, "variant", known[0])
        if self.variant not in known:
            raise ValueError(f"Settings: variant: {self.kind} has {', '.join(known)}, got {self.variant!r}")
        if self.kind == "vae" and self.dropout:
            raise ValueError(f"Settings: dropout: the autoencoder has none, got {self.dropout}")

    def build_model(self, sample_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A new model, on the CPU, with weights that depend only on the seed.

        It is for images of the shape ``(C, H, W)``, or for sequences of the shape ``(features,)``.

        Raises:
            ValueError: Where sequences are to be trained as what takes images alone.
        """
        if len(sample_shape) == 1 and (self.kind != "sequence" or self.augment):
            what = "augmentation" if self.kind == "sequence" else self.kind
            raise ValueError(f"Settings: {what} needs images, got sequences of {sample_shape[0]} features")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = self._stock_model(sample_shape, num_classes)
        return model if self.stock else fastvision.convert(model)

    def build_augmentation(self) -> AffineAugment | None:
        """What the training images go through; None where that is nothing."""
        return AffineAugment(**AUGMENTATION) if self.augment else None

    def _stock_model(self, sample_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        if self.kind == "vae":
            autoencoder = {"dense": VAE, "conv": ConvVAE}[self.variant]
            return autoencoder(sample_shape, likelihood=self.likelihood, fused=not self.stock)
        if self.kind == "sequence":
            return SequenceClassifier(
                num_classes,
                sample_shape[0] * (sample_shape[2] if len(sample_shape) == 3 else 1),
                HIDDEN_SIZE,
                cell=self.variant.removeprefix("bi").upper(),
                bidirectional=self.variant.startswith("bi"),
                dropout=self.dropout,
            )
        channels, height, width = sample_shape
        return RecognitionCNN(
            num_classes, channels, (height, width), padding=1, dropout=self.dropout, **PRESETS[self.variant]
        )
