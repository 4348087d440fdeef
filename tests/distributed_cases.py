"""What test_distributed.py and its processes train on."""

import torch

from fastvision.data import ImageDataset

OPTIONS = {"batch_size": 8, "steps": 3, "lr": 0.1}


def dataset() -> ImageDataset:
    """A few random images."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageDataset("random", images, torch.arange(24) % 3, ["a", "b", "c"])
