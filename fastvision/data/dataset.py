"""Labelled images in memory, their split and their batches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset


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

    def as_bytes(self) -> TensorDataset:
        """The same images and labels, the images as they are, uint8."""
        return TensorDataset(self.images, self.labels)

    def subset(self, indices: Tensor | Sequence[int] | slice) -> "ImageDataset":
        """The images that `indices` select, as a set of the same name and classes."""
        return ImageDataset(self.name, self.images[indices], self.labels[indices], self.classes)


def split(dataset: ImageDataset, test_fraction: float = 0.2, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
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


def folds(dataset: ImageDataset, count: int, seed: int = 0) -> list[tuple[ImageDataset, ImageDataset]]:
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


def batches(dataset: Dataset, batch_size: int, shuffle_seed: int | None = None) -> DataLoader:
    """Iterates over `dataset` once in batches ``(images, labels)``; the last one may be smaller.

    Args:
        dataset: What to iterate over.
        batch_size: Images per batch.
        shuffle_seed: Of the random order; None keeps the set's own order.
    """
    generator = torch.Generator().manual_seed(shuffle_seed or 0)
    if shuffle_seed is None or len(dataset) == 0:
        order = SequentialSampler(dataset)
    else:
        order = RandomSampler(dataset, generator=generator)
    # The sampler hands out whole lists of indices, so that a batch is one indexing operation instead of one per image.
    return DataLoader(
        dataset, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None, generator=generator
    )
