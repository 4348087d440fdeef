"""Trees of image files with a folder for each class. Needs Pillow (the extra ``vision``)."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvision.data.dataset import DataError, ImageDataset, split
from fastvision.data.image_files import ImageShape, inspect_image, is_image_name, read_image

TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("validation", "valid", "val")
SIDE = 64  # of images whose files have different sizes, in pixels


@dataclass(frozen=True)
class _Labelled:
    """An image file and its class's number."""

    path: Path
    label: int


def load_image_folders(
    directory: str | Path,
    image_shape: ImageShape | None = None,
    seed: int = 0,
    on_broken: Callable[[DataError], None] | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """Loads a tree of image files, ``CLASS/.../file``, as ``(train, test)``.

    Where the directory has the folders ``train`` and ``test``, each of them has the folders of the classes; otherwise a
    fifth of the images, chosen at random, is to test. A folder ``validation`` (``val``) stands in for ``test`` where
    there is none, and is added to ``train`` where there is one. Hidden files, and files whose names don't end as
    images' do, are left out; links are followed.

    Args:
        directory: Where the folders are; their names are the classes', also of those without images.
        image_shape: ``(C, H, W)`` as in `read_image`, of all images. What is None is the files': grey if all are;
            their size if all have the same, otherwise 64x64.
        seed: Of the random split.
        on_broken: Called with why a file can't be read, which is then left out.

    Raises:
        DataError: Where there are no images, or a class to test is none to train; where a file can't be read, unless
            `on_broken` is given.
    """
    directory = Path(directory)
    parts = _parts(directory)
    names = sorted({folder.name for folder in _folders(parts[0][0])})
    if not names:
        raise DataError(f"{directory}: expected a folder for each class, got none")
    numbers = {name: number for number, name in enumerate(names)}
    on_broken = on_broken or _raise
    files = [[file for part in parts_of for file in _files(part, numbers)] for parts_of in parts]
    shape = _common_shape([file.path for of_part in files for file in of_part], image_shape, on_broken)
    name = directory.resolve().name
    sets = [_read(name, of_part, shape, names, on_broken) for of_part in files]
    if len(sets) == 1:
        sets = list(split(sets[0], seed=seed))
    train, test = sets
    if not len(train) or not len(test):
        raise DataError(f"{directory}: expected images to train and to test, got {len(train)} and {len(test)}")
    return train, test


def _raise(error: DataError) -> None:
    raise error


def _parts(directory: Path) -> list[list[Path]]:
    """Directories of classes: those to train and those to test, or one to split."""
    by_name = {folder.name.lower(): folder for folder in _folders(directory)}
    train, test, validation = (
        [by_name[name] for name in part if name in by_name] for part in (TRAIN, TEST, VALIDATION)
    )
    if train and test:
        return [train + validation, test]
    if train and validation:
        return [train, validation]
    return [[directory]]


def _folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(directory: Path, numbers: dict[str, int]) -> Iterator[_Labelled]:
    """Of all classes in `directory`, in the order of their names."""
    for folder in _folders(directory):
        if folder.name not in numbers:
            raise DataError(f"{folder}: there is no folder of this class to train on")
        for path in sorted(_walk(folder, set())):
            if is_image_name(path):
                yield _Labelled(path, numbers[folder.name])


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    """The files below; `above` are the real paths of the folders above, where a link might lead back to."""
    here = above | {os.path.realpath(folder)}
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif os.path.realpath(path) not in here:
            yield from _walk(path, here)


def _common_shape(
    paths: list[Path], wanted: ImageShape | None, on_broken: Callable[[DataError], None]
) -> tuple[int, int, int]:
    """What is None in `wanted` as the files have it."""
    channels, height, width = wanted or (None, None, None)
    if channels is None or height is None or width is None:
        found = []
        for path in paths:
            try:
                found.append(inspect_image(path))
            except DataError:  # reading it will say so
                if on_broken is _raise:
                    raise
        sizes = {shape[1:] for shape in found}
        common = sizes.pop() if len(sizes) == 1 else (SIDE, SIDE)
        channels = channels or max((shape[0] for shape in found), default=1)
        height, width = height or common[0], width or common[1]
    return channels, height, width


def _read(
    name: str,
    files: list[_Labelled],
    shape: tuple[int, int, int],
    classes: list[str],
    on_broken: Callable[[DataError], None],
) -> ImageDataset:
    """All files as a set, without those that `on_broken` was told of."""

    def read(file: _Labelled) -> torch.Tensor | DataError:
        try:
            return read_image(file.path, shape)
        except DataError as error:
            return error

    images, labels = torch.empty(len(files), *shape, dtype=torch.uint8), []
    with ThreadPoolExecutor() as pool:  # decoding is outside Python's lock
        for file, image in zip(files, pool.map(read, files), strict=True):
            if isinstance(image, DataError):
                on_broken(image)
            else:
                images[len(labels)] = image
                labels.append(file.label)
    return ImageDataset(name, images[: len(labels)], torch.tensor(labels, dtype=torch.int64), classes)
