"""The models that are trained and measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

import fastvision
from fastvision.data import ImageDataset
from fastvision.models import RecognitionCNN, SequenceClassifier

HIDDEN_SIZE = 128
ModelName = Literal["recognition", "gru", "lstm"]


@dataclass(frozen=True)
class Recipe:
    """How a model is made and trained.

    Attributes:
        build: Makes it, with new weights, for images of a shape ``(C, H, W)`` and a number of classes.
        learning_rate: Adam's.
        learning_rate_decay: What it is multiplied by after each epoch.
    """

    build: Callable[[tuple[int, int, int], int], nn.Module]
    learning_rate: float
    learning_rate_decay: float = 1.0


def build_model(
    dataset: ImageDataset, model: ModelName = "recognition", *, converted: bool, seed: int = 0
) -> nn.Module:
    """A new model for the images and classes of `dataset`; the same seed gives the same weights.

    Args:
        dataset: What the model shall classify.
        model: ``"recognition"`` is the recognition CNN; ``"gru"`` and ``"lstm"`` read an image row by row.
        converted: Chooses fastvision's layers instead of stock ones.
        seed: Of the weights.

    Raises:
        ValueError: Where `model` is none of these.
    """
    if model not in RECIPES:
        raise ValueError(f"build_model: model: expected one of {', '.join(RECIPES)}, got {model!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = RECIPES[model].build(dataset.image_shape, len(dataset.classes))
    return fastvision.convert(built) if converted else built


def _recognition_cnn(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels, height, width = image_shape
    return RecognitionCNN(num_classes, channels, (height, width), padding=1)


def _row_classifier(cell: str, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels, _, width = image_shape
    return SequenceClassifier(num_classes, channels * width, HIDDEN_SIZE, cell=cell)


# The recurrent models would need twice the epochs at 1e-3. Without the decay, rounding alone makes two trainings of
# the same model differ by three per cent of the test images: each step at the end still changes what is recognised.
RECIPES: dict[ModelName, Recipe] = {
    "recognition": Recipe(_recognition_cnn, learning_rate=1e-3),
    "gru": Recipe(partial(_row_classifier, "GRU"), learning_rate=5e-3, learning_rate_decay=0.8),
    "lstm": Recipe(partial(_row_classifier, "LSTM"), learning_rate=5e-3, learning_rate_decay=0.8),
}
