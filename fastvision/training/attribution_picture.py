"""A picture of what predictions depend on. Needs matplotlib (the extra ``vision``)."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

PITCH = 1.9  # inches
COLUMNS = 4  # of pairs: an image, and the same with what matters in it


def draw_attributions(path: str | Path, title: str, images: Tensor, attributions: Tensor, texts: Sequence[str]) -> None:
    """Writes a PNG of images, each beside itself under its attribution: red speaks for the class, blue against it.

    Args:
        path: Of the PNG.
        title: Above all.
        images: ``(N, C, H, W)`` from 0 to 1, of one channel or three.
        attributions: ``(N, H, W)``.
        texts: Above each image.
    """
    columns = min(COLUMNS, len(images))
    lines = -(-len(images) // columns)
    figure = Figure((max(4.0, 2 * columns * PITCH), lines * (PITCH + 0.35) + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(lines, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (image, attribution, text) in enumerate(zip(images, attributions, texts, strict=True)):
        line, column = divmod(index, columns)
        plain, marked = grid[line, 2 * column : 2 * column + 2]
        pixels = image.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        largest = attribution.abs().max().item() or 1.0
        plain.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        plain.set_title(text, fontsize="small", loc="left")
        marked.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=1, alpha=0.35)
        marked.imshow(attribution.cpu().numpy(), cmap="seismic", vmin=-largest, vmax=largest, alpha=0.65)
    figure.savefig(path, dpi=110)
