"""What test_distributed.py and its processes train on."""

import functools

import torch

from fastvision.data import ImageDataset

OPTIONS = {"batch_size": 8, "steps": 3}
OPTIMIZER = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)  # Adam would amplify rounding


def dataset() -> ImageDataset:
    """A few random images."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageDataset("random", images, torch.arange(24) % 3, ["a", "b", "c"])
