"""A picture of images before and after their augmentation. Needs matplotlib (the extra ``vision``)."""

from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastvision.data import ImageDataset, rescale


def draw_augmented(
    path: str | Path,
    dataset: ImageDataset,
    augment: Callable[[Tensor], Tensor],
    seed: int = 0,
    *,
    images: int = 8,
    draws: int = 4,
) -> None:
    """Writes a PNG of images of the set, a column for each: as it is, and below as augmentation draws it.

    Args:
        path: Of the PNG.
        dataset: The images, of which the first ones are shown.
        augment: Takes images, uint8 ``(N, C, H, W)``, and gives float32 from 0 to 1 of the same shape.
        seed: Of what is drawn.
        images: How many images at most.
        draws: How often each is augmented.
    """
    originals = dataset.images[:images]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = [rescale(originals), *(augment(originals) for _ in range(draws))]
    figure = Figure((1.1 * len(originals), 1.1 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(f"{dataset.name}: {len(originals)} images, and {draws} augmentations of each")
    axes = figure.subplots(len(rows), len(originals), squeeze=False)
    for row, batch in zip(axes, rows, strict=True):
        for cell, image in zip(row, batch, strict=True):
            shown = (
                {"X": image[0].numpy(), "cmap": "gray_r"} if len(image) == 1 else {"X": image.permute(1, 2, 0).numpy()}
            )
            cell.imshow(**shown, vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)
