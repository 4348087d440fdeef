"""A small training loop for image classifiers, and their evaluation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastvision.data import ImageDataset, batches

EVALUATION_BATCH_SIZE = 256


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands after a batch.

    Attributes:
        epoch: Epochs finished before this one.
        images: Images seen in this epoch.
        loss: Mean cross-entropy of the images seen in this epoch, in nats.
        accuracy: Share of them that were recognised, 0 to 1.
    """

    epoch: int
    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class EpochResult:
    """Mean loss (nats), accuracy (0 to 1) and duration of a finished epoch, on the training images as they passed."""

    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy (nats) and accuracy (0 to 1) on a whole set."""

    loss: float
    accuracy: float


class Trainer:
    """Trains a classifier with Adam on the cross-entropy of its scores, an epoch at a time.

    Batches go to the device of the model's parameters. Order and dropout depend only on `seed` and the epoch's
    number, not on what else draws random numbers, so that two trainers that take turns see the same of both.

    Args:
        model: Maps ``(N, C, H, W)`` float32 from 0 to 1 to scores ``(N, classes)``.
        dataset: The training images.
        batch_size: Images per step.
        learning_rate: Adam's.
        learning_rate_decay: What it is multiplied by after each epoch.
        seed: Of the order of the images and of dropout.

    Raises:
        ValueError: Where `dataset` is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: ImageDataset,
        *,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        learning_rate_decay: float = 1.0,
        seed: int = 0,
    ) -> None:
        _check_not_empty("Trainer", dataset)
        self.model = model
        self.dataset = dataset
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
        seen, loss_sum, correct = 0, 0.0, 0
        self.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(epoch_seed)
            for images, labels in batches(self.dataset, self.batch_size, shuffle_seed=epoch_seed):
                loss, recognised = self._step(images.to(device), labels.to(device))
                seen += len(labels)
                loss_sum += loss * len(labels)
                correct += recognised
                if on_batch:
                    on_batch(Progress(self.epochs_done, seen, loss_sum / seen, correct / seen))
        self.epochs_done += 1
        self.schedule.step()
        return EpochResult(loss_sum / seen, correct / seen, time.perf_counter() - start)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """One optimiser step; the batch's mean loss and the number of images recognised."""
        scores = self.model(images)
        loss = cross_entropy(scores, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item(), int((scores.detach().argmax(-1) == labels).sum())


def fit(
    model: nn.Module,
    dataset: ImageDataset,
    epochs: int,
    *,
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


def evaluate(model: nn.Module, dataset: ImageDataset) -> Evaluation:
    """Loss and accuracy of `model`, in eval mode, on `dataset`.

    Raises:
        ValueError: Where `dataset` is empty.
    """
    _check_not_empty("evaluate", dataset)
    scores = predict(model, dataset)
    accuracy = (scores.argmax(-1) == dataset.labels).double().mean()
    return Evaluation(cross_entropy(scores, dataset.labels).item(), accuracy.item())


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
