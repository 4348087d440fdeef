"""Labelled images from files that are at hand: nothing here downloads."""

from fastvision.data.dataset import DataError, ImageDataset, batches, rescale, split
from fastvision.data.idx import load_idx, read_idx
from fastvision.data.image_files import read_image
from fastvision.data.sources import FASHION_CLASSES, load, load_digits, load_fashion_mnist, load_mnist_5k

__all__ = [
    "FASHION_CLASSES",
    "DataError",
    "ImageDataset",
    "batches",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "load_idx",
    "load_mnist_5k",
    "read_idx",
    "read_image",
    "rescale",
    "split",
]
