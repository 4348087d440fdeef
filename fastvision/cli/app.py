"""The commands, their options and their messages."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import fastvision
from fastvision.cli import KEYBOARD_INTERRUPT
from fastvision.cli.info import environment
from fastvision.cli.model_info import describe, model_facts, models_table
from fastvision.cli.options import (
    Data,
    Device,
    Json,
    Stock,
    Threads,
    fail,
    fail_without_extra,
    parse_size,
    prepare,
    warn,
)
from fastvision.cli.trained_commands import evaluate, generate, predict
from fastvision.data import DataError, load
from fastvision.models.vae import Likelihood
from fastvision.training import DivergedError
from fastvision.training.loop import Precision
from fastvision.training.optimizers import OptimizerName
from fastvision.training.settings import Kind, Settings

app = typer.Typer(
    help="Existing PyTorch vision and sequence models, faster, computing the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fastvision {fastvision.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="recognition, sequence or vae; or what 'fastvision train' wrote.", show_default="this machine"
        ),
    ] = None,
    image_size: Annotated[str, typer.Option(help="Of the model's images: height and width, 64 or 48x64.")] = "28",
    channels: Annotated[int, typer.Option(min=1, help="Of the model's images: 1 for grey, 3 for colour.")] = 1,
    classes: Annotated[int, typer.Option(min=1, help="Classes that the model tells apart.")] = 10,
    as_json: Json = False,
) -> None:
    """Show versions, processor, instruction sets, threads and CUDA; or, of a model, its size and its operations.

    Of recognition, sequence and vae, all the models that --model of train has: their parameters, megabytes, and
    floating-point operations for one image. A trained model has its own images and classes.
    """
    if model is not None:
        try:
            models = describe(model, (channels, *parse_size(image_size)), classes)
        except ValueError as error:
            fail(str(error))
        if as_json:
            print(json.dumps(model_facts(models), indent=2))
        else:
            Console().print(models_table(models))
        return
    facts = environment()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), text)
    Console().print(table)


@app.command()
def demo(
    data: Data = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Times to see the training images.",
            show_default="about 50,000 images in all, or two minutes for all models",
        ),
    ] = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Directory for the pictures.")] = Path("demo"),
    device: Device = "cpu",
) -> None:
    """Train a CNN, a GRU, an LSTM and a VAE on real images with stock layers and with fastvision's, and compare them.

    The GRU and the LSTM read each image row by row. The VAE, a variational autoencoder, learns to draw such images.

    Shows accuracy, speed, memory and the largest difference of the outputs, and draws pictures of predictions, and of
    reconstructions and samples.

    Takes at most three minutes on two cores, unless --epochs says otherwise.
    """
    try:
        from fastvision.cli.demo import run
    except ModuleNotFoundError as error:
        fail_without_extra("demo", "vision", error)
    prepare(device, threads)
    try:
        train_set, test_set = load(data, on_broken=warn)
        out.mkdir(parents=True, exist_ok=True)
    except (DataError, OSError) as error:
        fail(str(error))
    run(train_set, test_set, epochs, out, device)


@app.command()
def train(
    kind: Annotated[Kind, typer.Argument(help="A CNN, a recurrent network for sequences or rows of images, or a VAE.")],
    data: Data = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Height and width to stretch image files to: 64, or 48x64.",
            show_default="theirs; 64 where they differ",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="recognition: medium, small or large; sequence: gru, lstm, bigru or bilstm; vae: dense or conv.",
            show_default="the first",
        ),
    ] = None,
    likelihood: Annotated[Likelihood, typer.Option(help="Of the autoencoder's pixels.")] = "bernoulli",
    epochs: Annotated[int, typer.Option(min=1, help="Times to see the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    optimizer: Annotated[OptimizerName, typer.Option(help="Momentum is SGD with 0.9.")] = "adam",
    lr: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-3,
    lr_decay: Annotated[
        float, typer.Option(min=0, help="What the learning rate is multiplied by after each epoch.")
    ] = 1.0,
    l1: Annotated[float, typer.Option(min=0, help="Penalty on the sum of the weights' magnitudes.")] = 0.0,
    l2: Annotated[float, typer.Option(min=0, help="torch's weight_decay of the weights.")] = 0.0,
    dropout: Annotated[float, typer.Option(min=0, max=1, help="Of the classifiers.")] = 0.0,
    precision: Annotated[Precision, typer.Option(help="bf16 trains under autocast.")] = "fp32",
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs without a better one after which to stop.", show_default="never"),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validate instead: train this many models, each judged by another part of the training images.",
            show_default="no cross-validation",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and noise.")] = 0,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Directory for checkpoints and learning curves.")] = Path("training"),
    device: Device = "cpu",
    stock: Stock = False,
    augment: Annotated[
        bool,
        typer.Option("--augment", help="Turn, shift, shear, zoom and flip images at random (augmented.png shows how)."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard as well, in --out (needs the package).")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out, to the same result.")
    ] = False,
) -> None:
    """Train a model on images, or sequences, with checkpoints after each epoch.

    A tenth of the training images, chosen at random, judges each epoch; in the end, the weights of the best epoch are
    judged by the test images. Ctrl-C saves and ends. An image file that can't be read is named and left out.

    Each epoch's line says how much of its time was spent on the input: reading batches, and augmenting them.

    In several processes: torchrun --nproc-per-node 2 -m fastvision train ...
    """
    try:
        from fastvision.cli.train import Interrupted, Plan, run, run_folds
        from fastvision.training.processes import torchrun_processes
    except ModuleNotFoundError as error:
        fail_without_extra("train", "vision", error)
    prepare(device, threads)
    try:
        settings = Settings(
            kind,
            batch_size,
            optimizer,
            lr,
            l1,
            l2,
            dropout,
            precision,
            seed,
            model,
            likelihood,
            stock,
            lr_decay,
            augment,
        )
        shape = None if image_size is None else (None, *parse_size(image_size))
        with torchrun_processes(device) as (processes, own_device):
            on_broken = warn if processes.is_first else lambda error: None
            train_set, test_set = load(data, image_shape=shape, on_broken=on_broken)
            plan = Plan(settings, epochs, patience, out, own_device, resume, tensorboard, processes)
            if folds is None:
                run(plan, train_set, test_set)
            else:
                run_folds(plan, train_set, folds)
    except (ValueError, OSError, DivergedError) as error:
        fail(str(error))
    except Interrupted as error:
        print(f"fastvision: {error}", file=sys.stderr)
        raise typer.Exit(KEYBOARD_INTERRUPT) from None


for command in (evaluate, predict, generate):
    app.command()(command)


@app.command(
    add_help_option=False,  # fastvision.bench answers --help itself
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Time operators beside stock PyTorch and other runtimes (see fastvision bench --help)."""
    try:
        from fastvision.bench import app as suite
    except ModuleNotFoundError as error:
        fail_without_extra("bench", "bench", error)
    suite(args=context.args, prog_name="fastvision bench")
