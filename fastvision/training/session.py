"""A training run in a directory: it can be stopped or killed at any time, and goes on to the same bits."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import fastvision
from fastvision.data import ImageDataset, split
from fastvision.models import VAE, RecognitionCNN, SequenceClassifier
from fastvision.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastvision.training.loop import Evaluation, Precision, Progress, Trainer, evaluate
from fastvision.training.objectives import classification, negative_elbo
from fastvision.training.optimizers import OptimizerName

Kind = Literal["recognition", "sequence", "vae"]
HIDDEN_SIZE = 128  # of the recurrent layer
VALIDATION_FRACTION = 0.1  # of the training images
LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Settings:
    """All that the result depends on besides the images and the number of epochs; as in :class:`Trainer`.

    Attributes:
        kind: ``"recognition"`` is the recognition CNN, ``"sequence"`` a GRU that reads images row by row, ``"vae"``
            the variational autoencoder of dense layers, which has no dropout.
    """

    kind: Kind
    batch_size: int = 64
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-3
    l1: float = 0.0
    l2: float = 0.0
    dropout: float = 0.0
    precision: Precision = "fp32"
    seed: int = 0


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

    Attributes:
        history: The epochs so far.

    Raises:
        ValueError: Where there are too few images, and as the model and the trainer.
    """

    def __init__(
        self, settings: Settings, dataset: ImageDataset, directory: Path, device: torch.device | str = "cpu"
    ) -> None:
        self.settings = settings
        self.train_set, self.validation_set = split(dataset, VALIDATION_FRACTION, settings.seed)
        if not len(self.validation_set):
            raise ValueError(f"Session: dataset: expected at least ten images, got {len(dataset)}")
        self.directory = directory
        self.history: list[Epoch] = []
        self.model = fastvision.convert(_build(settings, dataset)).to(device)
        self.objective = negative_elbo if settings.kind == "vae" else classification
        self.trainer = Trainer(
            self.model,
            self.train_set,
            objective=self.objective,
            batch_size=settings.batch_size,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
            l1=settings.l1,
            l2=settings.l2,
            precision=settings.precision,
            seed=settings.seed,
        )
        self._identity = {
            "settings": asdict(settings),
            "data": {
                "name": dataset.name,
                "images": len(dataset),
                "image_shape": list(dataset.image_shape),
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
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:
        """Trains until there are `epochs`, or until the best is `patience` epochs old, with checkpoints after each.

        `on_batch` may raise to stop in the middle of an epoch; :meth:`save` then keeps what was reached.

        Raises:
            CheckpointError: Where a checkpoint can't be written.
            DivergedError: Where the loss is not finite; the checkpoints are those of the epoch before.
        """
        while len(self.history) < epochs and not self._is_stale(patience):
            trained = self.trainer.run_epoch(on_batch)
            judged = evaluate(self.model, self.validation_set, self.objective, self.settings.seed)
            self.history.append(Epoch(trained.loss, trained.accuracy, judged.loss, judged.accuracy))
            if self.best_epoch == len(self.history) - 1:
                self._write(BEST, {"model": self.model.state_dict()})
            self.save()
            if on_epoch:
                on_epoch(self.history[-1])

    @property
    def best_epoch(self) -> int:
        """Index of the first epoch with the smallest loss on the validation images."""
        return min(range(len(self.history)), key=lambda index: self.history[index].loss)

    def evaluate_best(self, dataset: ImageDataset) -> Evaluation:
        """Loss and accuracy on `dataset` of the model with the best epoch's weights, which it keeps."""
        self.model.load_state_dict(load_checkpoint(self.directory / BEST)["model"])
        return evaluate(self.model, dataset, self.objective, self.settings.seed)

    def _is_stale(self, patience: int | None) -> bool:
        return patience is not None and bool(self.history) and len(self.history) - 1 - self.best_epoch >= patience

    def _write(self, name: str, state: dict[str, Any]) -> None:
        content = self._identity | {"history": [asdict(epoch) for epoch in self.history]} | state
        save_checkpoint(self.directory / name, content)


def _build(settings: Settings, dataset: ImageDataset) -> nn.Module:
    """A new model, with weights that depend only on the seed."""
    channels, height, width = dataset.image_shape
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        if settings.kind == "vae":
            if settings.dropout:
                raise ValueError(f"Session: dropout: the autoencoder has none, got {settings.dropout}")
            return VAE(dataset.image_shape)
        if settings.kind == "sequence":
            return SequenceClassifier(
                len(dataset.classes), channels * width, HIDDEN_SIZE, cell="GRU", dropout=settings.dropout
            )
        return RecognitionCNN(len(dataset.classes), channels, (height, width), padding=1, dropout=settings.dropout)
