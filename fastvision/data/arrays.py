"""Images and labels that are arrays, in memory or in a file of numpy's."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastvision.data.dataset import DataError, ImageDataset, split

CHANNELS = (1, 3)
# Names of images and labels in an .npz file: those of Keras, of MedMNIST, and of a set in one piece.
TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"))
TEST = (("x_test", "y_test"), ("test_images", "test_labels"))
WHOLE = (("images", "labels"), ("x", "y"), ("X", "y"))


def from_arrays(name: str, images: Any, labels: Any, classes: Sequence[str] | None = None) -> ImageDataset:
    """A set from arrays or tensors.

    Args:
        name: What to call it.
        images: uint8 from 0 to 255 or floating-point from 0 to 1, which is rounded to 256 steps; ``(N, H, W)``,
            ``(N, H, W, C)`` or ``(N, C, H, W)`` with one channel or three.
        labels: Integers from 0 on, ``(N,)`` or ``(N, 1)``.
        classes: The classes' names; the labels' numbers by default.

    Raises:
        DataError: Where they are of another shape, dtype or range.
    """
    pixels, numbers = np.asarray(images), np.asarray(labels)
    if np.issubdtype(pixels.dtype, np.floating):
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):  # a NaN is neither
            raise DataError(
                f"{name}: images: expected floating-point from 0 to 1, got {pixels.min():g} to {pixels.max():g}"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{name}: images: expected uint8 or floating-point, got {pixels.dtype}")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in CHANNELS:
        pixels = pixels.transpose(0, 3, 1, 2)
    elif pixels.ndim != 4 or pixels.shape[1] not in CHANNELS:
        raise DataError(f"{name}: images: expected (N, H, W), (N, H, W, C) or (N, C, H, W), got {pixels.shape}")
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if not np.issubdtype(numbers.dtype, np.integer):
        raise DataError(f"{name}: labels: expected integers, got {numbers.dtype}")
    if classes is None:
        classes = [str(label) for label in range(int(numbers.max(initial=0)) + 1)]
    pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    return ImageDataset(name, pixels, torch.from_numpy(numbers.astype(np.int64)), classes)


def load_npz(path: str | Path, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    """Loads ``(train, test)`` from a file that ``numpy.savez`` wrote, with arrays as in :func:`from_arrays`.

    They are called ``x_train``, ``y_train``, ``x_test`` and ``y_test``, or ``train_images``, ``train_labels``,
    ``test_images`` and ``test_labels``; or ``images`` and ``labels``, or ``x`` and ``y``, of which a fifth, chosen at
    random by `seed`, is to test.

    Raises:
        DataError: Where the file is broken, or has no such arrays.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    train, test, whole = ([arrays[key] for key in _present(arrays, names)] for names in (TRAIN, TEST, WHOLE))
    if train and test:
        largest = max(int(np.max(labels, initial=0)) for _, labels in (train, test))
        classes = [str(label) for label in range(largest + 1)]
        return from_arrays(path.stem, *train, classes), from_arrays(path.stem, *test, classes)
    if whole:
        return split(from_arrays(path.stem, *whole), seed=seed)
    raise DataError(
        f"{path}: expected arrays x_train, y_train, x_test and y_test, or images and labels, "
        f"got {', '.join(arrays) or 'none'}"
    )


def _present(arrays: dict[str, np.ndarray], names: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return next((pair for pair in names if all(name in arrays for name in pair)), ())
