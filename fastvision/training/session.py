"""A training run in a directory: it can be stopped or killed at any time, and goes on to the same bits."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvision.data import Samples, split
from fastvision.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastvision.training.loop import DivergedError, EpochResult, Evaluation, Progress, Trainer, evaluate
from fastvision.training.objectives import classification, negative_elbo
from fastvision.training.processes import ALONE, Processes
from fastvision.training.settings import Settings

VALIDATION_FRACTION = 0.1  # of the training images
LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy (None of an autoencoder) on the training images as they passed, and on the validation images.

    Of an autoencoder the loss is the negative ELBO.
    """

    train_loss: float
    train_accuracy: float | None
    loss: float
    accuracy: float | None


class Session:
    """Trains on nine tenths of the images, and judges each epoch on the rest, which decide what is the best epoch.

    The directory gets ``last.pt``, what training goes on from, and ``best.pt``, the weights of the best epoch.

    Args:
        settings: What is trained, and how.
        dataset: The images; at least ten.
        directory: Where the checkpoints are written; it exists.
        device: Where to train.
        augment: The trainer's; None is that of the settings.
        processes: Those that train together; each calls the methods. The first one writes.

    Attributes:
        history: The epochs so far.

    Raises:
        ValueError: Where there are too few images, and as the model and the trainer.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Samples,
        directory: Path,
        device: torch.device | str = "cpu",
        augment: Callable[[Tensor], Tensor] | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.settings = settings
        self.processes = processes
        self.train_set, self.validation_set = split(dataset, VALIDATION_FRACTION, settings.seed)
        if not len(self.validation_set):
            raise ValueError(f"Session: dataset: expected at least ten images, got {len(dataset)}")
        self.directory = directory
        self.history: list[Epoch] = []
        self.model = settings.build_model(dataset.sample_shape, len(dataset.classes)).to(device)
        self.objective = negative_elbo if settings.kind == "vae" else classification
        self.trainer = Trainer(
            self.model,
            self.train_set,
            objective=self.objective,
            batch_size=settings.batch_size,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
            learning_rate_decay=settings.learning_rate_decay,
            l1=settings.l1,
            l2=settings.l2,
            precision=settings.precision,
            augment=augment or settings.build_augmentation(),
            seed=settings.seed,
            processes=processes,
        )
        self._identity = {
            "settings": asdict(settings),
            "data": {
                "name": dataset.name,
                "images": len(dataset),
                "sample_shape": list(dataset.sample_shape),
                "classes": list(dataset.classes),
            },
        }

    def resume(self) -> None:
        """Goes on from the directory's ``last.pt``.

        Raises:
            CheckpointError: Where it can't be read, or was written with other settings or images.
        """
        path = self.directory / LAST
        content = load_checkpoint(path)
        before = content["settings"] | content["data"]
        for name, expected in (self._identity["settings"] | self._identity["data"]).items():
            if before.get(name) != expected:
                raise CheckpointError(f"{path}: was trained with {name} {before.get(name)}, not {expected}")
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        self.trainer.load_state_dict(content["trainer"])

    def save(self) -> None:
        """Writes ``last.pt``. Raises CheckpointError where that is impossible; the old one stays."""
        self._write(LAST, {"trainer": self.trainer.state_dict()})

    def run(
        self,
        epochs: int,
        patience: int | None = None,
        on_batch: Callable[[Progress], None] | None = None,
        on_epoch: Callable[[Epoch, EpochResult], None] | None = None,
    ) -> None:
        """Trains until there are `epochs`, or until the best is `patience` epochs old, with checkpoints after each.

        `on_batch` may raise to stop in the middle of an epoch; :meth:`save` then keeps what was reached.

        Raises:
            CheckpointError: Where a checkpoint can't be written.
            DivergedError: Where the loss is not finite; the checkpoints are those of the epoch before.
        """
        while len(self.history) < epochs and not self._is_stale(patience):
            trained = self.trainer.run_epoch(on_batch)
            judged = self.evaluate(self.validation_set)
            if not math.isfinite(judged.loss):
                raise DivergedError(
                    f"the loss on the validation images is {judged.loss} after epoch {len(self.history) + 1}: "
                    "a smaller learning rate may help"
                )
            self.history.append(Epoch(trained.loss, trained.accuracy, judged.loss, judged.accuracy))
            if self.best_epoch == len(self.history) - 1:
                self._write(BEST, {"model": self.model.state_dict()})
            self.save()
            if on_epoch:
                on_epoch(self.history[-1], trained)

    @property
    def best_epoch(self) -> int:
        """Index of the first epoch with the smallest loss on the validation images."""
        return min(range(len(self.history)), key=lambda index: self.history[index].loss)

    def evaluate_best(self, dataset: Samples) -> Evaluation:
        """Loss and accuracy on `dataset` of the model with the best epoch's weights, which it keeps."""
        self.model.load_state_dict(load_checkpoint(self.directory / BEST)["model"])
        return self.evaluate(dataset)

    def evaluate(self, dataset: Samples) -> Evaluation:
        """Loss and accuracy on `dataset` of the model as it is."""
        return evaluate(
            self.model, dataset, self.objective, self.settings.seed, self.settings.precision, self.processes
        )

    def _is_stale(self, patience: int | None) -> bool:
        return patience is not None and bool(self.history) and len(self.history) - 1 - self.best_epoch >= patience

    def _write(self, name: str, state: dict[str, Any]) -> None:
        content = self._identity | {"history": [asdict(epoch) for epoch in self.history]} | state
        if self.processes.is_first:
            save_checkpoint(self.directory / name, content)
        self.processes.wait()
