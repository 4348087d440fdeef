"""Pictures of images in rows under headings. Needs matplotlib (the extra ``vision``)."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

IMAGE_SIZE = 0.8  # inches, as all of these
SPACE = 0.06
MARGIN = 0.2
TITLE_HEIGHT = 0.35
HEADING_HEIGHT = 0.32


def draw_image_rows(path: str | Path, title: str, rows: Mapping[str, Tensor], columns: int = 12) -> None:
    """Writes a PNG of images: under each heading, from left to right, `columns` to a line.

    Args:
        path: Of the PNG.
        title: Above all.
        rows: Under each heading images ``(N, C, H, W)``, floating-point from 0 to 1, of one channel or three.
        columns: Images beside each other.
    """
    lines = {heading: -(-len(images) // columns) for heading, images in rows.items()}
    pitch = IMAGE_SIZE + SPACE
    width = 2 * MARGIN + columns * pitch
    height = 2 * MARGIN + TITLE_HEIGHT + sum(HEADING_HEIGHT + count * pitch for count in lines.values())
    figure = Figure((width, height))
    figure.text(0.5, 1 - MARGIN / height, title, ha="center", va="top")
    top = height - MARGIN - TITLE_HEIGHT
    for heading, images in rows.items():
        top -= HEADING_HEIGHT
        figure.text(MARGIN / width, (top + SPACE) / height, heading, weight="bold", fontsize="medium")
        for index, image in enumerate(images):
            line, column = divmod(index, columns)
            left, bottom = MARGIN + column * pitch, top - line * pitch - IMAGE_SIZE
            axes = figure.add_axes((left / width, bottom / height, IMAGE_SIZE / width, IMAGE_SIZE / height))
            axes.set_axis_off()
            # float32: numpy has no bfloat16
            pixels = image.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=1)
        top -= lines[heading] * pitch
    figure.savefig(path, dpi=150)
