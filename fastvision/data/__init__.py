"""Labelled images and sequences from files that are at hand: nothing here downloads."""

from fastvision.data.arrays import from_arrays, load_npz
from fastvision.data.dataset import DataError, ImageDataset, batches, folds, rescale, split
from fastvision.data.folders import load_image_folders
from fastvision.data.idx import load_idx, read_idx
from fastvision.data.image_files import read_image
from fastvision.data.sequences import Samples, SequenceDataset, load_ts, read_ts
from fastvision.data.sources import FASHION_CLASSES, load, load_digits, load_fashion_mnist, load_mnist_5k

__all__ = [
    "FASHION_CLASSES",
    "DataError",
    "ImageDataset",
    "Samples",
    "SequenceDataset",
    "batches",
    "folds",
    "from_arrays",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "load_idx",
    "load_image_folders",
    "load_mnist_5k",
    "load_npz",
    "load_ts",
    "read_idx",
    "read_image",
    "read_ts",
    "rescale",
    "split",
]
