"""The commands that use a trained model, their options and their messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fastvision.cli.options import (
    Checkpoint,
    Data,
    Device,
    Json,
    Stock,
    Threads,
    fail,
    fail_without_extra,
    prepare,
    warn,
)
from fastvision.data import load
from fastvision.training.attribution import Attribution
from fastvision.training.loop import Precision
from fastvision.training.trained import load_trained

TRAINING = Path("training")


@contextmanager
def _command(name: str, device: str, threads: int | None) -> Iterator[None]:
    """What a command does: errors become sentences."""
    prepare(device, threads)
    try:
        yield
    except ModuleNotFoundError as error:
        fail_without_extra(name, "vision", error)
    except (ValueError, OSError) as error:
        fail(str(error))


def evaluate(
    checkpoint: Checkpoint = TRAINING,
    data: Data = None,
    precision: Annotated[Precision, typer.Option(help="bf16 evaluates under autocast.")] = "fp32",
    seed: Annotated[int, typer.Option(min=0, help="Of an autoencoder's noise, and of the images shown.")] = 0,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Directory for the pictures.")] = Path("evaluation"),
    device: Device = "cpu",
    stock: Stock = False,
    as_json: Json = False,
) -> None:
    """Say how good a trained model is on the test images.

    Of a classifier: loss, accuracy, precision, recall and F1 of each class, and whether its probabilities can be
    trusted (calibration); pictures of the confusion matrix, of the calibration and of the worst mistakes.

    Of an autoencoder: its negative ELBO and that in parts; pictures of reconstructions and samples.
    """
    with _command("evaluate", device, threads):
        from fastvision.cli.evaluate import run

        trained = load_trained(checkpoint, stock=stock, device=device)
        _, test_set = load(data, image_shape=trained.sample_shape, on_broken=warn)
        out.mkdir(parents=True, exist_ok=True)
        run(trained, test_set, out, precision, seed, as_json)


def predict(
    files: Annotated[list[Path], typer.Argument(help="Image files, of any size.")],
    checkpoint: Checkpoint = TRAINING,
    top: Annotated[int, typer.Option(min=1, help="How many of the most probable classes to show.")] = 3,
    invert: Annotated[
        bool, typer.Option("--invert", help="Exchange dark and bright, for dark drawings on white paper.")
    ] = False,
    attribution: Annotated[
        Attribution | None,
        typer.Option(
            help="Draw what the prediction depends on: saliency (gradients) or occlusion (covered patches).",
            show_default="no picture",
        ),
    ] = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="PNG of --attribution.")] = Path("attribution.png"),
    device: Device = "cpu",
    stock: Stock = False,
    as_json: Json = False,
) -> None:
    """Say what is in image files: the most probable classes of a trained classifier, with their probabilities.

    Each image is stretched to the size that the model was trained on. A file that is no image is named, the others are
    predicted, and the exit status is 1.
    """
    with _command("predict", device, threads):
        from fastvision.cli.predict import run

        trained = load_trained(checkpoint, stock=stock, device=device)
        if trained.is_autoencoder:
            fail(f"{checkpoint}: is an autoencoder, which has no classes: train recognition or sequence")
        if not trained.reads_images:
            fail(f"{checkpoint}: was trained on sequences, and predicts no image files")
        if broken := run(trained, files, top, invert, attribution, out, as_json):
            fail("\nfastvision: ".join(broken))


def generate(
    checkpoint: Checkpoint = TRAINING,
    count: Annotated[int, typer.Option(min=1, help="Samples to draw.")] = 60,
    interpolations: Annotated[int, typer.Option(min=0, help="Pairs of images to draw a way between.")] = 4,
    steps: Annotated[int, typer.Option(min=2, help="Images on each way, with its ends.")] = 12,
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of images, as in train, for the ends of the ways.", show_default="samples"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Directory for the pictures.")] = Path("generated"),
    device: Device = "cpu",
    stock: Stock = False,
    as_json: Json = False,
) -> None:
    """Draw new images with a trained autoencoder: a grid of samples, and ways from one image to another."""
    with _command("generate", device, threads):
        from fastvision.cli.generate import run

        trained = load_trained(checkpoint, stock=stock, device=device)
        if not trained.is_autoencoder:
            fail(f"{checkpoint}: is a classifier, which draws nothing: train vae")
        ends = None if data is None else load(data, image_shape=trained.sample_shape, on_broken=warn)[1]
        out.mkdir(parents=True, exist_ok=True)
        run(trained, count, interpolations, steps, ends, seed, out, as_json)
