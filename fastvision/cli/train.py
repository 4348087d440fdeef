"""``fastvision train``: a progress bar, checkpoints, learning curves; one model, or one for each fold."""

import json
import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from fastvision import training
from fastvision.data import Samples, SequenceDataset, folds
from fastvision.training.augmented import draw_augmented
from fastvision.training.curves import draw_curves
from fastvision.training.loop import EpochResult, Evaluation
from fastvision.training.processes import ALONE, Processes
from fastvision.training.session import LAST, Epoch, Session
from fastvision.training.settings import Settings


class Interrupted(Exception):
    """Ctrl-C was pressed; everything that was reached is saved."""


@dataclass(frozen=True)
class Plan:
    """What the options say: how to train, for how long, and where to and whether to go on."""

    settings: Settings
    epochs: int
    patience: int | None
    out: Path
    device: str
    resume: bool
    tensorboard: bool
    processes: Processes = ALONE


def run(plan: Plan, train_set: Samples, test_set: Samples) -> Evaluation:
    """Trains, shows progress, writes the checkpoints and ``curves.png``, and judges the best epoch by `test_set`.

    Raises:
        ValueError: Where there is a checkpoint and the plan is not to resume; as `Session`.
        Interrupted: After Ctrl-C.
        CheckpointError, DivergedError: As `Session.run`.
    """
    console, out = Console(quiet=not plan.processes.is_first), plan.out
    out.mkdir(parents=True, exist_ok=True)
    if plan.processes.any(not plan.resume and (out / LAST).exists()):
        raise ValueError(f"{out / LAST} exists: --resume goes on from it; otherwise choose another --out, or delete it")
    session = Session(plan.settings, train_set, out, plan.device, processes=plan.processes)
    if plan.resume:
        session.resume()
    _describe(console, session, test_set)
    augmentation = plan.settings.build_augmentation()
    if augmentation and plan.processes.is_first:
        draw_augmented(out / "augmented.png", train_set, augmentation, plan.settings.seed)
    with _tensorboard(plan) as log:
        _train(console, session, plan, log)
    best = session.evaluate_best(test_set)
    console.print(
        f"Best: epoch {session.best_epoch + 1}; on the {len(test_set):,} test {test_set.noun} "
        f"{standing(best.loss, best.accuracy)}. Checkpoints and curves: {out}",
        highlight=False,
        soft_wrap=True,
    )
    return best


def run_folds(plan: Plan, dataset: Samples, count: int) -> None:
    """Cross-validates: `run` for each fold, in ``fold-1`` and so on, a table of the results, and ``folds.json``.

    With the plan to resume, folds that are done are only judged again, and the others are trained.

    Raises:
        ValueError, Interrupted, CheckpointError, DivergedError: As `run`.
    """
    console, results = Console(quiet=not plan.processes.is_first), []
    for number, (train_set, test_set) in enumerate(folds(dataset, count, plan.settings.seed), start=1):
        console.print(f"Fold {number} of {count}", style="bold", highlight=False)
        out = plan.out / f"fold-{number}"
        resume = plan.resume and (out / LAST).exists()
        results.append(run(replace(plan, out=out, resume=resume), train_set, test_set))
    is_autoencoder = results[0].accuracy is None
    columns = {"negative ELBO" if is_autoencoder else "loss": [result.loss for result in results]}
    if not is_autoencoder:
        columns["accuracy"] = [result.accuracy for result in results]
    summary = {
        name: {"mean": statistics.fmean(values), "standard_deviation": statistics.stdev(values), "folds": values}
        for name, values in columns.items()
    }
    if plan.processes.is_first:
        (plan.out / "folds.json").write_text(json.dumps(summary, indent=2))
    console.print(_folds_table(summary, count))


def standing(loss: float, accuracy: float | None) -> str:
    """A model's loss and accuracy in words."""
    if accuracy is None:  # an autoencoder
        return f"negative ELBO {loss:.1f}"
    return f"loss {loss:.3f}  accuracy {accuracy:.1%}"


def _describe(console: Console, session: Session, test_set: Samples) -> None:
    if isinstance(test_set, SequenceDataset):
        shape = f"{test_set.features} features a step"
    else:
        channels, height, width = test_set.image_shape
        shape = f"{height}x{width}, {channels} channel{'s' * (channels > 1)}"
    console.print(
        f"{session.train_set.name}: {len(session.train_set):,} {test_set.noun} to train, "
        f"{len(session.validation_set):,} to judge each epoch, {len(test_set):,} to test; {shape}, "
        f"{len(test_set.classes)} classes",
        highlight=False,
        soft_wrap=True,
    )


def _train(console: Console, session: Session, plan: Plan, log: Callable[[int, Epoch], None]) -> None:
    epochs, out, images = plan.epochs, plan.out, len(session.train_set)
    bar = Progress(
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TextColumn("{task.percentage:3.0f}%"),
        console=console,
        disable=console.quiet,
    )
    task = bar.add_task("", total=images * epochs, completed=images * len(session.history), state="")

    with bar, _interrupt_flag() as interrupted:

        def on_batch(progress: training.Progress) -> None:
            state = f"epoch {progress.epoch + 1}/{epochs}  {standing(progress.loss, progress.accuracy)}"
            bar.update(task, completed=progress.epoch * images + progress.images, state=state)
            if plan.processes.any(bool(interrupted)):  # all stop after the same batch
                raise Interrupted

        def on_epoch(epoch: Epoch, trained: EpochResult) -> None:
            said = standing(epoch.loss, epoch.accuracy)
            waiting = trained.input_seconds / trained.seconds
            console.print(
                f"epoch {len(session.history)}: validation {said}; {trained.seconds:.1f} s, {waiting:.1%} of it input",
                highlight=False,
            )
            if plan.processes.is_first:
                draw_curves(out / "curves.png", f"{session.settings.kind}, {session.train_set.name}", session.history)
                log(len(session.history), epoch)

        try:
            session.run(epochs, plan.patience, on_batch, on_epoch)
        except Interrupted:
            session.save()
            raise Interrupted(f"stopped; --resume goes on from {out / LAST}") from None


@contextmanager
def _tensorboard(plan: Plan) -> Iterator[Callable[[int, Epoch], None]]:
    """What to call after each epoch, with its number from 1 on; nothing where the plan has no TensorBoard."""
    if not plan.tensorboard or not plan.processes.is_first:
        yield lambda number, epoch: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError("--tensorboard needs the package: pip install tensorboard") from error
    writer = SummaryWriter(plan.out / "tensorboard")

    def log(number: int, epoch: Epoch) -> None:
        writer.add_scalars("loss", {"training": epoch.train_loss, "validation": epoch.loss}, number)
        if epoch.accuracy is not None:
            accuracies = {"training": epoch.train_accuracy, "validation": epoch.accuracy}
            writer.add_scalars("accuracy", accuracies, number)

    try:
        yield log
    finally:
        writer.close()


def _folds_table(summary: dict[str, dict], count: int) -> Table:
    table = Table("fold", *summary, title=f"Cross-validation with {count} folds")
    for fold in range(count):
        values = (_number(name, of["folds"][fold]) for name, of in summary.items())
        table.add_row(str(fold + 1), *values)
    table.add_section()
    spread = (
        f"{_number(name, of['mean'])} ± {_number(name, of['standard_deviation'])}" for name, of in summary.items()
    )
    table.add_row("mean ± standard deviation", *spread)
    return table


def _number(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"


@contextmanager
def _interrupt_flag() -> Iterator[list[bool]]:
    """A list that the first Ctrl-C fills; the second one is what it was before."""
    pressed: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: object) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
