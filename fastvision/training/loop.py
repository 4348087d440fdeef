"""A small training loop for models of images, and their evaluation."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastvision.data import Samples, batches
from fastvision.training.objectives import Judgement, Objective, classification
from fastvision.training.optimizers import OptimizerName, build_optimizer, matrices
from fastvision.training.processes import ALONE, Processes

EVALUATION_BATCH_SIZE = 256
Precision = Literal["fp32", "bf16"]


class DivergedError(ArithmeticError):
    """The loss is not a number, or infinite."""


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
    """Of a finished epoch, on the images as they passed.

    Attributes:
        loss: Mean, in nats.
        accuracy: 0 to 1, or None.
        seconds: How long it took.
        input_seconds: How much of that was spent on the images before the model saw them: choosing, augmenting and
            moving them.
    """

    loss: float
    accuracy: float | None
    seconds: float
    input_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats) and accuracy (0 to 1, or None) on a whole set."""

    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class _Mean:
    """The mean loss and the accuracy of the images judged so far."""

    images: int = 0
    loss_sum: float = 0.0
    recognised: int | None = None

    @classmethod
    def of(cls, judgement: Judgement, images: int, processes: Processes) -> "_Mean":
        """Of so many images, after a judgement on this process's share of them."""
        share = processes.share_of(images)
        judges = judgement.recognised is not None
        recognised = judgement.recognised.item() if judges and share else 0
        sums = torch.tensor([judgement.loss.item() * share, recognised], dtype=torch.float64)
        loss_sum, recognised = processes.sum(sums).tolist()
        return cls(images, loss_sum, int(recognised) if judges else None)

    def __add__(self, other: "_Mean") -> "_Mean":
        recognised = None if other.recognised is None else (self.recognised or 0) + other.recognised
        return _Mean(self.images + other.images, self.loss_sum + other.loss_sum, recognised)

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float | None:
        return None if self.recognised is None else self.recognised / self.images


class Trainer:
    """Trains a model on an objective, an epoch at a time.

    Batches go to the device of the model's parameters. Order and dropout depend only on `seed` and the epoch's
    number, not on what else draws random numbers, so that two trainers that take turns see the same of both.

    `state_dict` is all that training depends on, also in the middle of an epoch: where `on_batch` raises, the state is
    that after the batch, and a trainer that loads it goes on to the same bits.

    Args:
        model: Takes images ``(N, C, H, W)``, float32 from 0 to 1, and gives what the objective judges.
        dataset: The training images, or sequences, which the model gets packed.
        objective: Gives the loss; by default the cross-entropy of a classifier's scores ``(N, classes)``.
        batch_size: Images per step.
        optimizer: As in :func:`fastvision.training.optimizers.build_optimizer`.
        learning_rate: The optimiser's.
        learning_rate_decay: What it is multiplied by after each epoch.
        l1: What the sum of the weights' magnitudes, not the biases', is multiplied by and added to the loss. Progress
            shows the loss without it.
        l2: The optimiser's.
        precision: ``"bf16"`` runs the model under torch.autocast.
        augment: Takes a batch of images as the set has them, uint8 ``(N, C, H, W)`` on the model's device, and gives
            what the model shall see, float32, by default from 0 to 1. What it draws from torch's generators depends
            on `seed` alone, as all else does.
        seed: Of the order of the images, dropout and whatever else the model draws.
        processes: Those that train together, with the same arguments otherwise. Each takes its share of every batch;
            the result is that of one process up to the order of sums, but for what the model draws.

    Raises:
        ValueError: Where `dataset` is empty.
        DivergedError: In `run_epoch`, where the loss is not finite; the model is as before that batch.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Samples,
        *,
        objective: Objective = classification,
        batch_size: int = 64,
        optimizer: OptimizerName = "adam",
        learning_rate: float = 1e-3,
        learning_rate_decay: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        precision: Precision = "fp32",
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        processes: Processes = ALONE,
    ) -> None:
        check_not_empty("Trainer", dataset)
        self.model = model
        self.dataset = dataset
        self.objective = objective
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_decay = learning_rate_decay
        self.l1 = l1
        self.precision = precision
        self.augment = augment or dataset.prepare
        self.seed = seed
        self.epochs_done = 0
        self.processes = processes
        self.optimizer = build_optimizer(optimizer, model, learning_rate, l2)
        self._parallel = processes.parallel(model)
        self._mean = _Mean()  # of the epoch that has begun
        self._random_state: dict[str, Tensor] = {}  # after its last batch

    def run_epoch(self, on_batch: Callable[[Progress], None] | None = None) -> EpochResult:
        """Trains on every image once, or on what is left of an epoch; `on_batch` is called after each step."""
        start = time.perf_counter()
        epoch_seed = self.seed + self.epochs_done
        device = _device(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.learning_rate_decay**self.epochs_done
        self.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(self.processes.seed(epoch_seed))
            _set_random_state(self._random_state, device)
            done = math.ceil(self._mean.images / self.batch_size)
            part = (self.processes.rank, self.processes.count)
            order = batches(self.dataset.stored(), self.batch_size, epoch_seed, part=part)
            input_seconds, before = 0.0, time.perf_counter()
            for images, labels in islice(order, done, None):
                prepared, labels = self.augment(images.to(device)), labels.to(device)
                input_seconds += time.perf_counter() - before
                self._step(prepared, labels)
                self._random_state = _get_random_state(device)
                if on_batch:
                    on_batch(Progress(self.epochs_done, self._mean.images, self._mean.loss, self._mean.accuracy))
                before = time.perf_counter()
        self.epochs_done += 1
        mean, self._mean, self._random_state = self._mean, _Mean(), {}
        return EpochResult(mean.loss, mean.accuracy, time.perf_counter() - start, input_seconds)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, as tensors and plain values; of several processes a call for all."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs_done": self.epochs_done,
            "mean": asdict(self._mean),
            "random_states": self.processes.gather(self._random_state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned, of a trainer of the same arguments."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epochs_done = state["epochs_done"]
        self._mean = _Mean(**state["mean"])
        states = state["random_states"]
        self._random_state = states[self.processes.rank] if len(states) == self.processes.count else {}

    def _step(self, images: Tensor | PackedSequence, labels: Tensor) -> None:
        """One optimiser step; the mean is of the model before it."""
        with autocast(labels.device, self.precision):
            judgement = self.objective(self._parallel, images, labels)
        total = min(self.batch_size, len(self.dataset) - self._mean.images)
        batch = _Mean.of(judgement, total, self.processes)
        if not math.isfinite(batch.loss):
            raise DivergedError(
                f"the loss is {batch.loss} in epoch {self.epochs_done + 1} after {self._mean.images} images: "
                "a smaller learning rate may help"
            )
        # Gradients are averaged over the processes, whose shares differ in size.
        loss = judgement.loss * (self.processes.share_of(total) * self.processes.count / total)
        if self.l1:
            loss = loss + self.l1 * sum(weight.abs().sum() for weight in matrices(self.model))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._mean += batch


def fit(
    model: nn.Module,
    dataset: Samples,
    epochs: int,
    *,
    objective: Objective = classification,
    on_batch: Callable[[Progress], None] | None = None,
    **options: Any,
) -> list[EpochResult]:
    """Trains `model` in place for `epochs`; one result per epoch. `options` are :class:`Trainer`'s."""
    trainer = Trainer(model, dataset, objective=objective, **options)
    return [trainer.run_epoch(on_batch) for _ in range(epochs)]


def predict(model: nn.Module, dataset: Samples, precision: Precision = "fp32") -> Tensor:
    """The scores ``(N, classes)`` of every image, float32 on the CPU, computed with the model in eval mode.

    `precision` is as in :class:`Trainer`.

    Raises:
        ValueError: Where `dataset` is empty.
    """
    check_not_empty("predict", dataset)
    device = _device(model)
    with eval_mode(model), torch.inference_mode(), autocast(device, precision):
        scores = [model(images.to(device)).float().cpu() for images, _ in batches(dataset, EVALUATION_BATCH_SIZE)]
    return torch.cat(scores)


def evaluate(
    model: nn.Module,
    dataset: Samples,
    objective: Objective = classification,
    seed: int = 0,
    precision: Precision = "fp32",
    processes: Processes = ALONE,
) -> Evaluation:
    """Loss and accuracy of `model`, in eval mode, on `dataset`; what the model draws depends only on `seed`.

    `precision` and `processes` are as in :class:`Trainer`.

    Raises:
        ValueError: Where `dataset` is empty.
    """
    check_not_empty("evaluate", dataset)
    device, mean = _device(model), _Mean()
    with eval_mode(model), torch.inference_mode(), torch.random.fork_rng(), autocast(device, precision):
        torch.manual_seed(processes.seed(seed))
        for images, labels in batches(dataset, EVALUATION_BATCH_SIZE, part=(processes.rank, processes.count)):
            total = min(EVALUATION_BATCH_SIZE, len(dataset) - mean.images)
            mean += _Mean.of(objective(model, images.to(device), labels.to(device)), total, processes)
    return Evaluation(mean.loss, mean.accuracy)


def check_not_empty(function: str, dataset: Samples) -> None:
    if len(dataset) == 0:
        raise ValueError(f"{function}: dataset: expected at least one image, got none in '{dataset.name}'")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _get_random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that a model on `device` may draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Sets what `state` has."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model of that precision runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, afterwards each module's own mode again (some may have been in eval mode all along)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
