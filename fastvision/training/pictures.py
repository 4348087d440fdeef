"""Pictures of what classifiers recognised. Needs matplotlib (the extra ``vision``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fastvision.data import ImageDataset

COLUMNS = 8
MISTAKES = 8
SAMPLE = 16
MARGIN = 0.2  # inches, as all of these
COLUMN_WIDTH = 1.4
IMAGE_SIZE = 1.25
LINE_HEIGHT = 0.16
TITLE_HEIGHT = 0.3
HEADING_HEIGHT = 0.4
GAP = 0.12
POINTS_PER_INCH = 72
RIGHT_COLOUR = "#57606a"
WRONG_COLOUR = "#cf222e"


@dataclass(frozen=True)
class _Line:
    """A line of text above an image."""

    text: str
    is_wrong: bool


@dataclass(frozen=True)
class _Section:
    """Images under a heading, by their index in the set, each with its lines of text from top to bottom."""

    heading: str
    images: dict[int, list[_Line]]

    @property
    def rows(self) -> list[list[tuple[int, list[_Line]]]]:
        images = list(self.images.items())
        return [images[start : start + COLUMNS] for start in range(0, len(images), COLUMNS)]

    @property
    def height(self) -> float:
        return HEADING_HEIGHT + sum(map(_row_height, self.rows))


@dataclass(frozen=True)
class _Prediction:
    """What a classifier predicts: for each image of the set a class and its probability."""

    dataset: ImageDataset
    predicted: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, dataset: ImageDataset, scores: Tensor) -> "_Prediction":
        probabilities, predicted = scores.softmax(-1).max(-1)
        return cls(dataset, predicted, probabilities)

    def line(self, index: int, label: str = "") -> _Line:
        predicted = int(self.predicted[index])
        text = f"{label}{self.dataset.classes[predicted]} ({self.probabilities[index]:.0%})"
        return _Line(text, predicted != int(self.dataset.labels[index]))

    def truth(self, index: int) -> _Line:
        return _Line(f"true: {self.dataset.classes[self.dataset.labels[index]]}", True)


def draw_predictions(
    path: str | Path,
    dataset: ImageDataset,
    scores: Mapping[str, Tensor],
    seed: int = 0,
    *,
    mistakes: int = MISTAKES,
    sample: int = SAMPLE,
) -> None:
    """Writes a PNG of images with the class that each classifier predicts, its probability and the true class.

    The most confident mistakes of each classifier come first, then what all of them say of a random sample of all
    images. Mistakes are marked in red.

    Args:
        path: Of the PNG.
        dataset: The images and labels.
        scores: For each classifier, under its name, ``(N, classes)``: its scores (logits) of the images.
        seed: Of the random sample.
        mistakes: How many at most.
        sample: Its size.

    Raises:
        ValueError: Where scores have not one row per image and one column per class.
    """
    expected = (len(dataset), len(dataset.classes))
    for name, tensor in scores.items():
        if tensor.shape != expected:
            raise ValueError(
                f"draw_predictions: scores: expected shape {expected}, got {tuple(tensor.shape)} for '{name}'"
            )
    predictions = {name: _Prediction.of(dataset, tensor) for name, tensor in scores.items()}
    sections = [_mistakes(name, prediction, mistakes) for name, prediction in predictions.items()]
    sections.append(_sample(predictions, dataset, sample, seed))
    sections = [section for section in sections if section.images]

    width, height = 2 * MARGIN + COLUMNS * COLUMN_WIDTH, 2 * MARGIN + TITLE_HEIGHT + sum(s.height for s in sections)
    figure = Figure((width, height))
    figure.text(
        0.5,
        1 - MARGIN / height,
        f"{dataset.name}: {len(dataset):,} test images\n"
        "Above each: predicted class and its probability; in red where wrong, with the true class",
        ha="center",
        va="top",
    )
    bottom = height - MARGIN - TITLE_HEIGHT
    for section in sections:
        bottom -= HEADING_HEIGHT
        figure.text(0.5, bottom / height, section.heading, ha="center", weight="bold", fontsize="medium")
        for row in section.rows:
            bottom -= _row_height(row)
            for column, (index, lines) in enumerate(row):
                left = MARGIN + column * COLUMN_WIDTH + (COLUMN_WIDTH - IMAGE_SIZE) / 2
                box = (left / width, bottom / height, IMAGE_SIZE / width, IMAGE_SIZE / height)
                _draw(figure.add_axes(box), dataset.images[index], lines)
    figure.savefig(path, dpi=150)


def _row_height(row: list[tuple[int, list[_Line]]]) -> float:
    return GAP + max(len(lines) for _, lines in row) * LINE_HEIGHT + IMAGE_SIZE


def _mistakes(name: str, prediction: _Prediction, count: int) -> _Section:
    wrong = (prediction.predicted != prediction.dataset.labels).nonzero().flatten()
    most_confident = wrong[prediction.probabilities[wrong].argsort(descending=True)][:count].tolist()
    accuracy = 1 - len(wrong) / len(prediction.dataset)
    return _Section(
        f"{name}: {accuracy:.1%} recognised, the {len(most_confident)} most confident of {len(wrong):,} mistakes",
        {index: [prediction.line(index), prediction.truth(index)] for index in most_confident},
    )


def _sample(predictions: dict[str, _Prediction], dataset: ImageDataset, count: int, seed: int) -> _Section:
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    images = {}
    for index in chosen:
        images[index] = [prediction.line(index, f"{name}: ") for name, prediction in predictions.items()]
        if any(line.is_wrong for line in images[index]):
            images[index].append(next(iter(predictions.values())).truth(index))
    return _Section(f"{len(chosen)} of the {len(dataset):,} test images, at random", images)


def _draw(axes: Axes, image: Tensor, lines: list[_Line]) -> None:
    if len(image) == 1:
        axes.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=255)
    else:
        axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set(xticks=[], yticks=[])
    is_wrong = any(line.is_wrong for line in lines)
    for side in axes.spines.values():
        side.set(color=WRONG_COLOUR if is_wrong else RIGHT_COLOUR, linewidth=2.5 if is_wrong else 1)
    for height, line in enumerate(reversed(lines)):
        axes.annotate(
            line.text,
            xy=(0.5, 1),
            xycoords="axes fraction",
            xytext=(0, 4 + height * LINE_HEIGHT * POINTS_PER_INCH),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            color=WRONG_COLOUR if line.is_wrong else RIGHT_COLOUR,
        )
