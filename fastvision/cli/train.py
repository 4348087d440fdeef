"""``fastvision train``: a progress bar, checkpoints, learning curves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fastvision import training
from fastvision.data import ImageDataset
from fastvision.training.curves import draw_curves
from fastvision.training.session import LAST, Epoch, Session


class Interrupted(Exception):
    """Ctrl-C was pressed; everything that was reached is saved."""


def run(session: Session, test_set: ImageDataset, epochs: int, patience: int | None) -> None:
    """Trains, shows progress, and writes the checkpoints and ``curves.png``.

    Raises:
        Interrupted: After Ctrl-C.
        CheckpointError, DivergedError: As `Session.run`.
    """
    console, out = Console(), session.directory
    images = len(session.train_set)
    bar = Progress(
        BarColumn(), TextColumn("{task.fields[state]}"), TextColumn("{task.percentage:3.0f}%"), console=console
    )
    task = bar.add_task("", total=images * epochs, completed=images * len(session.history), state="")

    with bar, _interrupt_flag() as interrupted:

        def on_batch(progress: training.Progress) -> None:
            state = f"epoch {progress.epoch + 1}/{epochs}  {standing(progress.loss, progress.accuracy)}"
            bar.update(task, completed=progress.epoch * images + progress.images, state=state)
            if interrupted:
                raise Interrupted

        def on_epoch(epoch: Epoch) -> None:
            said = standing(epoch.loss, epoch.accuracy)
            console.print(f"epoch {len(session.history)}: validation {said}", highlight=False)
            draw_curves(out / "curves.png", f"{session.settings.kind}, {session.train_set.name}", session.history)

        try:
            session.run(epochs, patience, on_batch, on_epoch)
        except Interrupted:
            session.save()
            raise Interrupted(f"stopped; --resume goes on from {out / LAST}") from None
    best = session.evaluate_best(test_set)
    console.print(
        f"Best: epoch {session.best_epoch + 1}; on the {len(test_set):,} test images "
        f"{standing(best.loss, best.accuracy)}. Checkpoints and curves: {out}",
        highlight=False,
        soft_wrap=True,
    )


def standing(loss: float, accuracy: float | None) -> str:
    """A model's loss and accuracy in words."""
    if accuracy is None:  # an autoencoder
        return f"negative ELBO {loss:.1f}"
    return f"loss {loss:.3f}  accuracy {accuracy:.1%}"


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
