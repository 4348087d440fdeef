"""The model that is trained and measured."""

import torch
from torch import nn

import fastvision
from fastvision.data import ImageDataset
from fastvision.models import RecognitionCNN


def build_model(dataset: ImageDataset, *, converted: bool, seed: int = 0) -> nn.Module:
    """A new recognition CNN for the images and classes of `dataset`; the same seed gives the same weights.

    `converted` chooses fastvision's layers instead of stock ones.
    """
    channels, height, width = dataset.image_shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RecognitionCNN(len(dataset.classes), channels, (height, width), padding=1)
    return fastvision.convert(model) if converted else model
