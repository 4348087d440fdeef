"""``fastvision predict``: the most probable classes of image files."""

import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fastvision.data import DataError, read_image, rescale
from fastvision.training.attribution import Attribution, attribute
from fastvision.training.attribution_picture import draw_attributions
from fastvision.training.trained import Trained

MOST_DRAWN = 24


def run(
    trained: Trained,
    files: list[Path],
    top: int,
    invert: bool,
    attribution: Attribution | None,
    out: Path,
    as_json: bool,
) -> list[str]:
    """Prints the `top` classes of each file, and draws their attributions; returns why files could not be read."""
    read, images, broken = [], [], []
    for file in files:
        try:
            images.append(read_image(file, trained.sample_shape))
            read.append(file)
        except DataError as error:
            broken.append(str(error))
    if not images:
        return broken
    batch = rescale(torch.stack(images))
    batch = 1 - batch if invert else batch
    probabilities = trained.probabilities(batch)
    values, classes = (x.tolist() for x in probabilities.topk(min(top, len(trained.classes))))
    results = [
        [{"class": trained.classes[index], "probability": value} for value, index in zip(*of_file, strict=True)]
        for of_file in zip(values, classes, strict=True)
    ]
    if attribution is not None:
        bests = [f"{result[0]['class']} ({result[0]['probability']:.0%})" for result in results]
        texts = [f"{file.name}\n{best}" for file, best in zip(read, bests, strict=True)]
        _draw(trained, batch, probabilities.argmax(-1), attribution, texts, out)
    if as_json:
        facts = [{"file": str(file), "predictions": result} for file, result in zip(read, results, strict=True)]
        print(json.dumps(facts, indent=2))
    else:
        Console().print(_table(read, results))
        if attribution is not None:
            Console().print(f"{attribution.capitalize()}: {out}", highlight=False, soft_wrap=True)
    return broken


def _draw(
    trained: Trained, batch: Tensor, classes: Tensor, attribution: Attribution, texts: list[str], out: Path
) -> None:
    device = next(trained.model.parameters()).device
    shown, classes = batch[:MOST_DRAWN].to(device), classes[:MOST_DRAWN].to(device)
    found = attribute(trained.model, shown, classes, attribution)
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_attributions(out, f"{attribution.capitalize()} of {trained.title}", shown, found, texts[:MOST_DRAWN])


def _table(files: list[Path], results: list[list[dict]]) -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    for name in ("class", "probability"):
        table.add_column(name, justify="right" if name == "probability" else "left")
    for file, result in zip(files, results, strict=True):
        for place, prediction in enumerate(result):
            table.add_row("" if place else str(file), prediction["class"], f"{prediction['probability']:.1%}")
        table.add_section()
    return table
