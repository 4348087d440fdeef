"""``fastvision evaluate``: numbers, a table, pictures."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fastvision.data import ImageDataset, Samples
from fastvision.training.image_rows import draw_image_rows
from fastvision.training.loop import Precision, predict
from fastvision.training.pictures import draw_predictions
from fastvision.training.report_pictures import draw_confusion, draw_reliability
from fastvision.training.reports import (
    AutoencoderReport,
    ClassificationReport,
    autoencoder_report,
    classification_report,
)
from fastvision.training.trained import Trained

MISTAKES = 24
COLUMNS = 12
SAMPLES = 36


def run(trained: Trained, dataset: Samples, out: Path, precision: Precision, seed: int, as_json: bool) -> None:
    """Evaluates on `dataset`, writes the pictures into `out`, a directory that exists, and prints.

    Raises:
        ValueError: Where the images or classes are not those of the model.
    """
    trained.check_fits(dataset)
    judge = _autoencoder if trained.is_autoencoder else _classifier
    report, table, pictures = judge(trained, dataset, out, precision, seed)
    if as_json:
        facts = {"data": dataset.name, "images": len(dataset), "seed": seed} | asdict(report)
        print(json.dumps(facts | {"pictures": [str(picture) for picture in pictures]}, indent=2))
        return
    console = Console()
    console.print(
        f"{trained.title} on {len(dataset):,} {dataset.noun} of {dataset.name}", highlight=False, soft_wrap=True
    )
    console.print(table)
    for picture in pictures:
        console.print(str(picture), highlight=False, soft_wrap=True)


def _classifier(
    trained: Trained, dataset: Samples, out: Path, precision: Precision, seed: int
) -> tuple[ClassificationReport, Table, list[Path]]:
    scores = predict(trained.model, dataset, precision)
    report = classification_report(scores, dataset)
    title = f"{dataset.name}: {report.accuracy:.1%} of {len(dataset):,} recognised"
    pictures = [out / name for name in ("confusion.png", "calibration.png")]
    draw_confusion(pictures[0], title, report)
    draw_reliability(pictures[1], title, report)
    if trained.reads_images:
        pictures.append(out / "mistakes.png")
        draw_predictions(pictures[2], dataset, {trained.title: scores}, seed, mistakes=MISTAKES, sample=0)
    return report, _class_table(report), pictures


def _class_table(report: ClassificationReport) -> Table:
    table = Table()
    table.add_column("class")
    for name in ("precision", "recall", "F1", "images"):
        table.add_column(name, justify="right")
    for name, of_class in report.classes.items():
        shares = (f"{share:.1%}" for share in (of_class.precision, of_class.recall, of_class.f1))
        table.add_row(name, *shares, f"{of_class.images:,}")
    table.caption = (
        f"accuracy {report.accuracy:.2%}, loss {report.loss:.4f} nats, "
        f"expected calibration error {report.calibration_error:.2%}"
    )
    return table


def _autoencoder(
    trained: Trained, dataset: ImageDataset, out: Path, precision: Precision, seed: int
) -> tuple[AutoencoderReport, Table, list[Path]]:
    report = autoencoder_report(trained.model, dataset, seed, precision)
    device = trained.model.mu.weight.device
    images, _ = dataset[torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:COLUMNS]]
    pictures = [out / name for name in ("reconstructions.png", "samples.png")]
    rows = {"Images": images, "Their reconstructions": trained.model.reconstruct(images.to(device))}
    draw_image_rows(pictures[0], f"{trained.title} on {dataset.name}", rows, COLUMNS)
    samples = trained.model.sample(SAMPLES, torch.Generator(device).manual_seed(seed))
    draw_image_rows(pictures[1], trained.title, {"Samples": samples}, COLUMNS)
    table = Table("per image", "", show_header=True)
    table.columns[1].justify = "right"
    table.add_row("negative ELBO, nats", f"{report.negative_elbo:.2f}")
    table.add_row("of it KL divergence, nats", f"{report.kl:.2f}")
    table.add_row("cross-entropy of the reconstruction, nats", f"{report.cross_entropy:.2f}")
    table.add_row("mean squared error of a pixel", f"{report.mean_squared_error:.5f}")
    return report, table, pictures
