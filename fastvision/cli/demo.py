"""``fastvision demo``: progress bars for each model, one table, two pictures."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

import fastvision
from fastvision import training
from fastvision.cli.info import cpu_name
from fastvision.cli.train import standing
from fastvision.data import ImageDataset
from fastvision.models import VAE
from fastvision.training.comparison import BATCH_SIZE, Comparison
from fastvision.training.image_rows import draw_image_rows
from fastvision.training.measure import Timing
from fastvision.training.pictures import draw_predictions
from fastvision.training.vae_comparison import STEP_BATCH_SIZE, VAEComparison


@dataclass(frozen=True)
class Contestant:
    """A model of the demo: its name in fastvision.training, a short title, and what is said before it trains."""

    name: training.ModelName
    title: str
    description: str


CONTESTANTS = (
    Contestant("recognition", "CNN", "Recognition CNN"),
    Contestant("gru", "GRU", "GRU that reads images row by row"),
    Contestant("lstm", "LSTM", "LSTM that reads images row by row"),
)
# Where the user doesn't say how many epochs, the whole demo ends within three minutes on two slow cores.
SECONDS_TO_TRAIN = 30  # each classifier
SECONDS_TO_TRAIN_VAE = 13
MOST_IMAGES = 30_000  # of a larger set: the first epoch has to end, however long it takes
IMAGES_TO_SEE = 50_000  # in all epochs together: enough to be well trained
MOST_EPOCHS = 20
PICTURE_COLUMNS = 12  # of the autoencoder's
LABELS = {"stock": "stock PyTorch", "fastvision": "fastvision"}


def run(train_set: ImageDataset, test_set: ImageDataset, epochs: int | None, out: Path, device: str) -> None:
    """Trains, prints the table and writes the pictures into `out`, a directory that exists."""
    console = Console()
    available, time_limit, vae_time_limit = len(train_set), math.inf, math.inf
    if epochs is None:
        train_set, time_limit, vae_time_limit = default_images(train_set), SECONDS_TO_TRAIN, SECONDS_TO_TRAIN_VAE
        epochs = default_epochs(len(train_set))
    _describe(console, train_set, available, test_set, device)

    comparisons: dict[str, Comparison] = {}
    for contestant in CONTESTANTS:
        console.print(contestant.description, style="bold", highlight=False)
        with TrainingBars(console, len(train_set), epochs) as bars:
            comparisons[contestant.title] = training.compare(
                train_set,
                test_set,
                epochs,
                model=contestant.name,
                device=device,
                time_limit=time_limit,
                on_batch=bars.update,
                on_measure=bars.announce,
            )
        console.print()
    console.print("Variational autoencoder of dense layers", style="bold", highlight=False)
    with TrainingBars(console, len(train_set), epochs) as bars:
        vae = training.compare_vae(
            train_set,
            test_set,
            epochs,
            device=device,
            time_limit=vae_time_limit,
            on_batch=bars.update,
            on_measure=bars.announce,
        )
    console.print()
    console.print(results_table(comparisons, vae))

    picture = out / "predictions.png"
    draw_predictions(
        picture,
        test_set,
        {title: training.predict(comparison.model, test_set) for title, comparison in comparisons.items()},
    )
    console.print(f"Predictions: {picture}", soft_wrap=True)
    picture = out / "autoencoder.png"
    _draw_autoencoder(picture, vae.model, test_set)
    console.print(f"Reconstructions and samples: {picture}", soft_wrap=True)


def _draw_autoencoder(path: Path, model: VAE, test_set: ImageDataset) -> None:
    """Test images, the same reconstructed, and what the model makes of random latents."""
    device = model.mu.weight.device
    chosen = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))[:PICTURE_COLUMNS]
    images, _ = test_set[chosen]
    draw_image_rows(
        path,
        f"{test_set.name}: a variational autoencoder with {model.latent_size} latents",
        {
            "Test images": images,
            "Their reconstructions": model.reconstruct(images.to(device)),
            "Samples": model.sample(2 * PICTURE_COLUMNS, torch.Generator(device).manual_seed(0)),
        },
        PICTURE_COLUMNS,
    )


def default_images(dataset: ImageDataset) -> ImageDataset:
    """MOST_IMAGES of the set, at random; all of a smaller one."""
    if len(dataset) <= MOST_IMAGES:
        return dataset
    return dataset.subset(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:MOST_IMAGES])


def default_epochs(images: int) -> int:
    """Epochs that show about IMAGES_TO_SEE images."""
    return max(1, min(MOST_EPOCHS, round(IMAGES_TO_SEE / images)))


def _describe(console: Console, train_set: ImageDataset, available: int, test_set: ImageDataset, device: str) -> None:
    """Says what the demo runs on; `available` is how many training images there are to choose from."""
    chosen = f"{len(train_set):,}" if len(train_set) == available else f"{len(train_set):,} of {available:,}"
    channels, height, width = train_set.image_shape
    capability = fastvision.backends.cpu.capability
    processor = cpu_name() if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)
    console.print(
        f"fastvision {fastvision.__version__} ({capability}), torch {torch.__version__}, {processor}, "
        f"{_count(torch.get_num_threads(), 'thread')}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{train_set.name}: {chosen} images to train, {len(test_set):,} to test, "
        f"{height}x{width}, {_count(channels, 'channel')}, {_count(len(train_set.classes), 'class', 'classes')}",
        highlight=False,
        soft_wrap=True,
    )


class TrainingBars:
    """A progress bar for each implementation with epoch, loss and, of a classifier, accuracy; a context manager."""

    def __init__(self, console: Console, images_per_epoch: int, epochs: int) -> None:
        self.images_per_epoch = images_per_epoch
        self.epochs = epochs
        self.progress = Progress(
            TextColumn("{task.description:13}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.percentage:3.0f}%"),
            console=console,
            refresh_per_second=4,  # drawing takes time from what is being timed
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "TrainingBars":
        self.progress.start()
        total = self.images_per_epoch * self.epochs
        self.tasks = {
            name: self.progress.add_task(label, total=total, state="", start=False) for name, label in LABELS.items()
        }
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def update(self, name: str, progress: training.Progress) -> None:
        """Shows how far the implementation `name` is."""
        task = self.tasks[name]
        self.progress.start_task(task)
        state = f"epoch {progress.epoch + 1}/{self.epochs}  {standing(progress.loss, progress.accuracy)}"
        self.progress.update(task, completed=progress.epoch * self.images_per_epoch + progress.images, state=state)

    def announce(self, what: str) -> None:
        """Ends the bars and says, on one line, what is measured after training."""
        lead = "Measuring " if self.progress.live.is_started else ", "
        self._stop()
        self.progress.console.print(f"{lead}{what}", end="", highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self.progress.live.is_started:  # a second stop would print an empty line
            self.progress.stop()


def results_table(comparisons: dict[str, Comparison], vae: VAEComparison) -> Table:
    """The comparisons, the classifiers' by their titles: a row per measurement, a column per implementation."""
    table = Table(title=f"Stock PyTorch beside fastvision, {_count(torch.get_num_threads(), 'thread')}")
    table.add_column("")
    table.add_column("stock PyTorch", justify="right")
    table.add_column("fastvision", justify="right")
    table.add_column("stock / fastvision", justify="right")
    for title, comparison in comparisons.items():
        table.add_section()
        table.add_row(f"{title}, {_count(comparison.epochs, 'epoch')}", style="bold")
        _add_comparison(table, comparison)
    table.add_section()
    table.add_row(f"VAE, {_count(vae.epochs, 'epoch')}", style="bold")
    _add_vae(table, vae)
    largest_scores = ", ".join(f"{title} {comparison.largest_score:.1f}" for title, comparison in comparisons.items())
    table.caption = (
        "Times are medians ± their interquartile range: where it is wide, other programs kept the machine busy. "
        f"Memory is what training steps with {BATCH_SIZE} images add, each implementation measured "
        "in its own process. The difference is between the outputs of both for the same trained weights and all test "
        f"images, of the VAE with the same noise; the largest outputs are: {largest_scores}, "
        f"VAE {vae.largest_output:.1f}. The VAE's ELBO is per image, its step is the sample, the loss and their "
        f"backward pass, for {STEP_BATCH_SIZE} images with {vae.model.latent_size} latents."
    )
    return table


def _add_comparison(table: Table, comparison: Comparison) -> None:
    stock, ours = comparison.stock, comparison.fastvision
    table.add_row("test accuracy", f"{stock.accuracy:.2%}", f"{ours.accuracy:.2%}", "")
    _add_timing(table, "training, s per epoch", stock.epoch, ours.epoch, 1, ".2f")
    _add_timing(table, "latency of 1 image, µs", stock.image_latency, ours.image_latency, 1e6, ".0f")
    _add_timing(table, "latency of 32 images, µs", stock.batch_latency, ours.batch_latency, 1e6, ".0f")
    memory = "peak training memory, MB"
    if stock.peak_memory is None or ours.peak_memory is None:
        table.add_row(memory, "not known", "not known", "")
    else:
        ratio = f"{stock.peak_memory / ours.peak_memory:.2f}" if ours.peak_memory else ""
        table.add_row(memory, f"{stock.peak_memory / 1e6:.1f}", f"{ours.peak_memory / 1e6:.1f}", ratio)
    table.add_row("largest output difference", "", f"{comparison.largest_difference:.1e}", "")


def _add_vae(table: Table, comparison: VAEComparison) -> None:
    stock, ours = comparison.stock, comparison.fastvision
    table.add_row("negative ELBO, nats", f"{stock.negative_elbo:.2f}", f"{ours.negative_elbo:.2f}", "")
    _add_timing(table, "training, s per epoch", stock.epoch, ours.epoch, 1, ".2f")
    _add_timing(table, "sample and loss step, µs", stock.step, ours.step, 1e6, ".0f")
    table.add_row("largest output difference", "", f"{comparison.largest_difference:.1e}", "")
    table.add_row("difference of the ELBO", "", f"{comparison.loss_difference:.1e}", "")


def _add_timing(table: Table, name: str, stock: Timing, ours: Timing, scale: float, form: str) -> None:
    def cell(timing: Timing) -> str:
        spread = "" if timing.iqr is None else f" ±{timing.iqr / timing.median:.0%}"
        return f"{timing.median * scale:{form}}{spread}"

    table.add_row(name, cell(stock), cell(ours), f"{stock.median / ours.median:.2f}")


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
