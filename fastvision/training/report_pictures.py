"""Pictures of a classifier's report. Needs matplotlib (the extra ``vision``)."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fastvision.training.reports import CALIBRATION_BINS, ClassificationReport

MOST_NUMBERED = 25  # classes up to which each cell shows its number


def draw_confusion(path: str | Path, title: str, report: ClassificationReport) -> None:
    """Writes a PNG of the confusion matrix: colours are shares of each true class, numbers are images."""
    names, counts = list(report.classes), np.array(report.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, min(12.0, 0.5 * len(names) + 2))
    figure = Figure((side + 1, side), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="predicted", ylabel="true")
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, label="share of the true class", shrink=0.8)
    if len(names) <= MOST_NUMBERED:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize="small")
    figure.savefig(path, dpi=100)


def draw_reliability(path: str | Path, title: str, report: ClassificationReport) -> None:
    """Writes a PNG of accuracy by confidence: bars on the diagonal are of a classifier that knows what it knows."""
    figure = Figure((5, 5.5), layout="constrained")
    figure.suptitle(f"{title}\nexpected calibration error {report.calibration_error:.1%}")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence, accuracy, images = (
        [getattr(bin, name) for bin in report.calibration] for name in ("confidence", "accuracy", "images")
    )
    width = 0.9 / CALIBRATION_BINS
    above.plot((0, 1), (0, 1), color="gray", linestyle="--", label="calibrated")
    above.bar(confidence, accuracy, width, label="accuracy")
    above.set(ylabel="share recognised", xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="upper left")
    below.bar(confidence, images, width)
    below.set(xlabel="probability of the predicted class", ylabel="images", yscale="log")
    figure.savefig(path, dpi=100)
