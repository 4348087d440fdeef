"""IDX files: the format of MNIST and of the sets made to replace it.

A file is two zero bytes, a byte for the element type, a byte for the number of dimensions, each dimension as a
big-endian uint32, then the elements, last dimension fastest. Format: http://yann.lecun.com/exdb/mnist.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastvision.data.dataset import DataError, ImageDataset

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path) -> Tensor:
    """Reads an IDX file of unsigned bytes, compressed where its name ends in ``.gz``.

    Returns:
        uint8 of the shape that the file declares.

    Raises:
        DataError: Where the file can't be read, isn't IDX, or is shorter or longer than it declares.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error

    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(
            f"{path}: not an IDX file: expected two zero bytes first, got {content[:4].hex(' ') or 'nothing'}"
        )
    element_type, dimensions = content[2], content[3]
    if element_type != UNSIGNED_BYTE:
        raise DataError(f"{path}: element type: expected 0x08 (unsigned byte), got {element_type:#04x}")
    header_bytes = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < header_bytes:
        raise DataError(
            f"{path}: header: expected at least 1 dimension in {header_bytes} bytes, got {len(content)} bytes"
        )
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected, actual = math.prod(shape), len(content) - header_bytes
    if actual != expected:
        problem = "truncated" if actual < expected else "too long"
        raise DataError(f"{path}: {problem}: expected {expected} bytes for shape {shape}, got {actual}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape).copy())


def load_idx(
    directory: str | Path, name: str | None = None, classes: Sequence[str] | None = None
) -> tuple[ImageDataset, ImageDataset]:
    """Loads a directory of the four files of MNIST's layout as ``(train, test)``.

    They are ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, each with or without ``.gz`` and with ``-`` or ``.`` before ``idx``.

    Args:
        directory: Where the files are.
        name: What to call the set; the directory's name by default.
        classes: The classes' names; the labels' numbers by default.

    Raises:
        DataError: Where a file is missing or broken, or images and labels don't fit together.
    """
    directory = Path(directory)
    arrays = {
        (part, kind): read_idx(_find(directory, part, kind, dimensions))
        for part in ("train", "t10k")
        for kind, dimensions in (("images", 3), ("labels", 1))
    }
    if classes is None:
        largest = max(
            (int(array.max()) for (_, kind), array in arrays.items() if kind == "labels" and array.numel()), default=0
        )
        classes = [str(label) for label in range(largest + 1)]

    def dataset(part: str) -> ImageDataset:
        images, labels = arrays[part, "images"], arrays[part, "labels"]
        return ImageDataset(name or directory.resolve().name, images.unsqueeze(1), labels.long(), classes)

    return dataset("train"), dataset("t10k")


def _find(directory: Path, part: str, kind: str, dimensions: int) -> Path:
    candidates = [
        directory / f"{part}-{kind}{separator}idx{dimensions}-ubyte{suffix}"
        for separator in "-."
        for suffix in ("", ".gz")
    ]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"{directory}: no {candidates[0].name}[.gz] there")
