"""Labelled images in memory, their split and their batches."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset


class DataError(ValueError):
    """Files that were asked for are missing, broken, or don't hold images and labels that belong together."""


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images in memory.

    ``dataset[index]`` is ``(images, labels)`` with the images as float32 from 0 to 1. The index is whatever selects
    along a tensor's first dimension: one number gives one image ``(C, H, W)``, a list a batch ``(N, C, H, W)``.

    Args:
        name: What the set is called in messages.
        images: ``(N, C, H, W)``, uint8.
        labels: ``(N,)``, int64, from 0 to ``len(classes) - 1``.
        classes: The classes' names.

    Raises:
        DataError: Where the images and labels don't fit together.
    """

    noun = "images"

    def __init__(self, name: str, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        if images.dim() != 4 or images.dtype != torch.uint8:
            raise DataError(
                f"{name}: images: expected uint8 of shape (N, C, H, W), got {images.dtype} of {tuple(images.shape)}"
            )
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise DataError(
                f"{name}: labels: expected one int64 for each of the {len(images)} images, "
                f"got {labels.dtype} of {tuple(labels.shape)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise DataError(
                f"{name}: labels: expected 0 to {len(classes) - 1} ({len(classes)} classes), "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
        self.name = name
        self.images = images
        self.labels = labels
        self.classes = tuple(classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> tuple[Tensor, Tensor]:
        return rescale(self.images[index]), self.labels[index]

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """The images' shape."""
        return self.image_shape

    def stored(self) -> TensorDataset:
        """What training reads from: the images as they are, uint8, and the labels."""
        return TensorDataset(self.images, self.labels)

    @staticmethod
    def prepare(images: Tensor) -> Tensor:
        """What a model sees of a batch as stored."""
        return rescale(images)

    def subset(self, indices: Tensor | Sequence[int] | slice) -> "ImageDataset":
        """The images that `indices` select, as a set of the same name and classes."""
        return ImageDataset(self.name, self.images[indices], self.labels[indices], self.classes)


Labelled = TypeVar("Labelled", ImageDataset, "SequenceDataset")  # noqa: F821  (fastvision.data.sequences imports this)


def split(dataset: Labelled, test_fraction: float = 0.2, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Splits at random into ``(train, test)``; the same seed gives the same split.

    Args:
        dataset: What to split.
        test_fraction: Share of the images in ``test``, between 0 and 1.
        seed: Of the random order.

    Raises:
        ValueError: Where `test_fraction` is out of range.
    """
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"split: test_fraction: expected a number from 0 to 1, got {test_fraction}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    test_count = round(len(dataset) * test_fraction)
    return dataset.subset(order[test_count:]), dataset.subset(order[:test_count])


def folds(dataset: Labelled, count: int, seed: int = 0) -> list[tuple[Labelled, Labelled]]:
    """Pairs ``(train, test)`` for cross-validation: each image is to test in one of them.

    Each class is spread evenly over the folds. The same seed gives the same folds.

    Args:
        dataset: What to divide.
        count: How many pairs.
        seed: Of the random order.

    Raises:
        ValueError: Where `count` is less than 2 or more than there are images.
    """
    if not 2 <= count <= len(dataset):
        raise ValueError(f"folds: count: expected a number from 2 to the {len(dataset)} images, got {count}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    order = order[dataset.labels[order].argsort(stable=True)]
    fold = torch.arange(len(dataset)) % count
    return [(dataset.subset(order[fold != part]), dataset.subset(order[fold == part])) for part in range(count)]


def rescale(images: Tensor) -> Tensor:
    """uint8 images, from 0 to 255, as float32 from 0 to 1."""
    return images.float() / 255


def batches(
    dataset: Dataset, batch_size: int, shuffle_seed: int | None = None, *, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterates over `dataset` once in batches ``(images, labels)``; the last one may be smaller.

    Args:
        dataset: What to iterate over; a tensor of indices selects a batch of it.
        batch_size: Images per batch.
        shuffle_seed: Of the random order; None keeps the set's own order.
        part: ``(first, step)``: only these images of each batch; its first image where it has none of them.
    """
    first, step = part
    # In memory, a batch is one indexing operation: a DataLoader would only add to it.
    if shuffle_seed is None:
        order = torch.arange(len(dataset))
    else:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(shuffle_seed))
    for chosen in order.split(batch_size):
        if len(chosen):
            yield dataset[chosen[first::step] if len(chosen) > first else chosen[:1]]
