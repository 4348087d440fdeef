"""Pictures of what a classifier recognised. Needs matplotlib (the extra ``vision``)."""

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fastvision.data import ImageDataset

COLUMNS = 8
MISTAKES = 8
SAMPLE = 24
INCHES_PER_IMAGE = (1.3, 1.62)  # width, and height with its two lines of text
INCHES_PER_HEADING = 0.45
RIGHT_COLOUR = "#57606a"
WRONG_COLOUR = "#cf222e"


def draw_predictions(path: str | Path, dataset: ImageDataset, scores: Tensor, seed: int = 0) -> None:
    """Writes a PNG of images with their predicted class, its probability and the true class.

    The most confident mistakes come first, marked in red, then a random sample of all images.

    Args:
        path: Of the PNG.
        dataset: The images and labels.
        scores: ``(N, classes)``, the classifier's scores (logits) of the images.
        seed: Of the random sample.

    Raises:
        ValueError: Where `scores` has not one row per image and one column per class.
    """
    if scores.shape != (len(dataset), len(dataset.classes)):
        raise ValueError(
            f"draw_predictions: scores: expected shape {(len(dataset), len(dataset.classes))}, "
            f"got {tuple(scores.shape)}"
        )
    probabilities, predicted = scores.softmax(-1).max(-1)
    wrong = (predicted != dataset.labels).nonzero().flatten()
    most_confident = wrong[probabilities[wrong].argsort(descending=True)][:MISTAKES]
    sample = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:SAMPLE]

    accuracy = 1 - len(wrong) / len(dataset)
    sections = [
        (f"The {len(most_confident)} most confident of {len(wrong):,} mistakes", most_confident),
        (f"{len(sample)} of the {len(dataset):,} test images, at random", sample),
    ]
    sections = [(heading, indices) for heading, indices in sections if len(indices)]
    rows = [math.ceil(len(indices) / COLUMNS) for _, indices in sections]
    heights = [count * INCHES_PER_IMAGE[1] + INCHES_PER_HEADING for count in rows]
    figure = Figure((COLUMNS * INCHES_PER_IMAGE[0], sum(heights) + 1.5 * INCHES_PER_HEADING), layout="constrained")
    figure.suptitle(
        f"{dataset.name}: {accuracy:.1%} of {len(dataset):,} test images recognised\n"
        "Above each: predicted class and its probability; in red where wrong, with the true class"
    )
    parts = figure.subfigures(len(sections), 1, height_ratios=heights, squeeze=False).flat
    for part, count, (heading, indices) in zip(parts, rows, sections, strict=True):
        part.suptitle(heading, weight="bold", fontsize="medium")
        grid = part.subplots(count, COLUMNS, squeeze=False).flatten()
        for axes in grid:
            axes.set_axis_off()
        for axes, index in zip(grid, indices.tolist(), strict=False):
            _draw(axes, dataset, index, int(predicted[index]), float(probabilities[index]))
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.2)


def _draw(axes: Axes, dataset: ImageDataset, index: int, predicted: int, probability: float) -> None:
    image = dataset.images[index].numpy()
    truth = int(dataset.labels[index])
    colour = RIGHT_COLOUR if predicted == truth else WRONG_COLOUR
    if len(image) == 1:
        axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=255)
    else:
        axes.imshow(image.transpose(1, 2, 0))
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(color=colour, linewidth=1 if predicted == truth else 2.5)
    note = "" if predicted == truth else f"\ntrue: {dataset.classes[truth]}"
    axes.set_title(f"{dataset.classes[predicted]} ({probability:.0%}){note}", fontsize="small", color=colour)
