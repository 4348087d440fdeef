"""A picture of how training went. Needs matplotlib (the extra ``vision``)."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastvision.training.session import Epoch


def draw_curves(path: str | Path, title: str, history: Sequence[Epoch]) -> None:
    """Writes a PNG of loss and, of a classifier, accuracy by epochs, on the training and the validation images."""
    curves = {"loss": [(epoch.train_loss, epoch.loss) for epoch in history]}
    if history and history[0].accuracy is not None:
        curves["accuracy"] = [(epoch.train_accuracy, epoch.accuracy) for epoch in history]
    figure = Figure((5 * len(curves), 4), layout="constrained")
    figure.suptitle(title)
    numbers = range(1, len(history) + 1)
    for place, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), place, xlabel="epoch", ylabel=name)
        for label, line in zip(("training", "validation"), zip(*values, strict=True), strict=True):
            axes.plot(numbers, line, marker=".", label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
