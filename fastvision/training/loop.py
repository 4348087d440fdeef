"""A small training loop for models of images, and their evaluation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastvision.data import ImageDataset, batches
from fastvision.training.objectives import Judgement, Objective, classification

EVALUATION_BATCH_SIZE = 256


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands after a batch.

    Attributes:
        epoch: Epochs finished before this one.
        images: Images seen in this epoch.
        loss: Mean loss of the images seen in this epoch, in nats.
        accuracy: Share of them that were recognised, 0 to 1; None where the objective recognises nothing.
    """

    epoch: int
    images: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class EpochResult:
    """Mean loss (nats), accuracy (0 to 1, or None) and duration of a finished epoch, on the images as they passed."""

    loss: float
    accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats) and accuracy (0 to 1, or None) on a whole set."""

    loss: float
    accuracy: float | None


class _Mean:
    """The mean loss and the accuracy of the images judged so far."""

    def __init__(self) -> None:
        self.images = 0
        self.loss_sum = 0.0
        self.recognised: int | None = None

    def add(self, judgement: Judgement, images: int) -> None:
        self.images += images
        self.loss_sum += judgement.loss.item() * images
        if judgement.recognised is not None:
            self.recognised = (self.recognised or 0) + int(judgement.recognised)

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float | None:
        return None if self.recognised is None else self.recognised / self.images


class Trainer:
    """Trains a model with Adam on an objective, an epoch at a time.

    Batches go to the device of the model's parameters. Order and dropout depend only on `seed` and the epoch's
    number, not on what else draws random numbers, so that two trainers that take turns see the same of both.

    Args:
        model: Takes images ``(N, C, H, W)``, float32 from 0 to 1, and gives what the objective judges.
        dataset: The training images.
        objective: Gives the loss; by default the cross-entropy of a classifier's scores ``(N, classes)``.
        batch_size: Images per step.
        learning_rate: Adam's.
        learning_rate_decay: What it is multiplied by after each epoch.
        seed: Of the order of the images, dropout and whatever else the model draws.

    Raises:
        ValueError: Where `dataset` is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: ImageDataset,
        *,
        objective: Objective = classification,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        learning_rate_decay: float = 1.0,
        seed: int = 0,
    ) -> None:
        _check_not_empty("Trainer", dataset)
        self.model = model
        self.dataset = dataset
        self.objective = objective
        self.batch_size = batch_size
        self.seed = seed
        self.epochs_done = 0
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, learning_rate_decay)

    def run_epoch(self, on_batch: Callable[[Progress], None] | None = None) -> EpochResult:
        """Trains on every image once; `on_batch` is called after each step."""
        start = time.perf_counter()
        epoch_seed = self.seed + self.epochs_done
        device = _device(self.model)
        mean = _Mean()
        self.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(epoch_seed)
            for images, labels in batches(self.dataset, self.batch_size, shuffle_seed=epoch_seed):
                mean.add(self._step(images.to(device), labels.to(device)), len(images))
                if on_batch:
                    on_batch(Progress(self.epochs_done, mean.images, mean.loss, mean.accuracy))
        self.epochs_done += 1
        self.schedule.step()
        return EpochResult(mean.loss, mean.accuracy, time.perf_counter() - start)

    def _step(self, images: Tensor, labels: Tensor) -> Judgement:
        """One optimiser step; the judgement is of the model before it."""
        judgement = self.objective(self.model, images, labels)
        self.optimizer.zero_grad()
        judgement.loss.backward()
        self.optimizer.step()
        return judgement


def fit(
    model: nn.Module,
    dataset: ImageDataset,
    epochs: int,
    *,
    objective: Objective = classification,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    learning_rate_decay: float = 1.0,
    seed: int = 0,
    on_batch: Callable[[Progress], None] | None = None,
) -> list[EpochResult]:
    """Trains `model` in place for `epochs`; one result per epoch. The arguments are :class:`Trainer`'s."""
    trainer = Trainer(
        model,
        dataset,
        objective=objective,
        batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rate_decay=learning_rate_decay,
        seed=seed,
    )
    return [trainer.run_epoch(on_batch) for _ in range(epochs)]


def predict(model: nn.Module, dataset: ImageDataset) -> Tensor:
    """The scores ``(N, classes)`` of every image, on the CPU, computed with the model in eval mode.

    Raises:
        ValueError: Where `dataset` is empty.
    """
    _check_not_empty("predict", dataset)
    device = _device(model)
    with _eval_mode(model), torch.inference_mode():
        scores = [model(images.to(device)).cpu() for images, _ in batches(dataset, EVALUATION_BATCH_SIZE)]
    return torch.cat(scores)


def evaluate(
    model: nn.Module, dataset: ImageDataset, objective: Objective = classification, seed: int = 0
) -> Evaluation:
    """Loss and accuracy of `model`, in eval mode, on `dataset`; what the model draws depends only on `seed`.

    Raises:
        ValueError: Where `dataset` is empty.
    """
    _check_not_empty("evaluate", dataset)
    device, mean = _device(model), _Mean()
    with _eval_mode(model), torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for images, labels in batches(dataset, EVALUATION_BATCH_SIZE):
            mean.add(objective(model, images.to(device), labels.to(device)), len(images))
    return Evaluation(mean.loss, mean.accuracy)


def _check_not_empty(function: str, dataset: ImageDataset) -> None:
    if len(dataset) == 0:
        raise ValueError(f"{function}: dataset: expected at least one image, got none in '{dataset.name}'")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, afterwards each module's own mode again (some may have been in eval mode all along)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
