"""``fastvision generate``: samples and interpolations."""

import json
from pathlib import Path

import torch
from rich.console import Console

from fastvision.data import ImageDataset
from fastvision.training.image_rows import draw_image_rows
from fastvision.training.trained import Trained

COLUMNS = 12


def run(
    trained: Trained,
    count: int,
    interpolations: int,
    steps: int,
    ends: ImageDataset | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Draws `count` samples and ways between images of `ends`, or between samples, into `out`, which exists.

    Raises:
        ValueError: Where `ends` are images of another shape than the model's, or too few.
    """
    device = trained.model.mu.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    title = f"{trained.title}, trained on {trained.data_name}"
    pictures = [out / "samples.png"]
    samples = trained.model.sample(count, generator)
    draw_image_rows(pictures[0], title, {"Samples": samples}, COLUMNS)
    if interpolations:
        if ends is None:
            pairs = trained.model.sample(2 * interpolations, generator)
        else:
            trained.check_fits(ends)
            if len(ends) < 2 * interpolations:
                raise ValueError(f"{ends.name}: expected {2 * interpolations} images for the ends, got {len(ends)}")
            chosen = torch.randperm(len(ends), generator=torch.Generator().manual_seed(seed))[: 2 * interpolations]
            pairs = ends[chosen][0].to(device)
        ways = trained.model.interpolate(*pairs.chunk(2), steps)
        pictures.append(out / "interpolations.png")
        draw_image_rows(pictures[1], title, {"From one image to another": ways.flatten(0, 1)}, steps)
    if as_json:
        print(json.dumps({"seed": seed, "pictures": [str(picture) for picture in pictures]}, indent=2))
        return
    for picture in pictures:
        Console().print(str(picture), highlight=False, soft_wrap=True)
