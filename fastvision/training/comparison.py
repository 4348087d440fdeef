"""Trains a model with stock layers and with fastvision's, and measures both."""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import fastvision
from fastvision.data import ImageDataset
from fastvision.training.build import RECIPES, ModelName, build_model
from fastvision.training.loop import Progress, Trainer, evaluate, predict
from fastvision.training.measure import Timing, TrainingRun, measure_latencies, peak_training_memory

BATCH_SIZE = 64
LATENCY_BATCH_SIZE = 32
NAMES = ("stock", "fastvision")


@dataclass(frozen=True)
class Implementation:
    """What was measured of one implementation.

    Attributes:
        accuracy: Share of the test images that the trained model recognises, 0 to 1.
        epoch: Duration of a training epoch.
        image_latency: Duration of inference on one image.
        batch_latency: Duration of inference on a batch of 32.
        peak_memory: Bytes that training adds at its peak; None where they can't be measured.
    """

    accuracy: float
    epoch: Timing
    image_latency: Timing
    batch_latency: Timing
    peak_memory: int | None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        stock, fastvision: The two implementations.
        largest_difference: Between the two implementations' scores of the test images, with the same trained weights.
        largest_score: Largest magnitude among these scores, to judge the difference by.
        epochs: Epochs that both were trained for.
        model: The trained model with fastvision's layers, in eval mode.
    """

    stock: Implementation
    fastvision: Implementation
    largest_difference: float
    largest_score: float
    epochs: int
    model: nn.Module


def compare(
    train_set: ImageDataset,
    test_set: ImageDataset,
    epochs: int,
    *,
    model: ModelName = "recognition",
    seed: int = 0,
    device: torch.device | str = "cpu",
    time_limit: float = math.inf,
    on_batch: Callable[[str, Progress], None] | None = None,
    on_measure: Callable[[str], None] | None = None,
) -> Comparison:
    """Trains a model with stock layers and with fastvision's, and measures both.

    Both start from the same weights and see the same images in the same order with the same dropout. They take turns
    an epoch at a time, so that whatever else the machine does disturbs both alike.

    Args:
        train_set: What to train on.
        test_set: What to measure accuracy and the outputs' difference on.
        epochs: Times that each sees the training images.
        model: Which model, as in :func:`build_model`.
        seed: Of the weights, the order of the images and dropout.
        device: Where both run.
        time_limit: Seconds of training. An epoch that would exceed it is not begun, except the first.
        on_batch: Called after each step with the implementation, ``"stock"`` or ``"fastvision"``, and its progress.
        on_measure: Called with what is being measured, when a measurement after training begins.
    """
    models = [build_model(train_set, model, converted=converted, seed=seed).to(device) for converted in (False, True)]
    recipe = RECIPES[model]
    trainers = [
        Trainer(
            each,
            train_set,
            batch_size=BATCH_SIZE,
            learning_rate=recipe.learning_rate,
            learning_rate_decay=recipe.learning_rate_decay,
            seed=seed,
        )
        for each in models
    ]
    epoch_timings = train_in_turns(trainers, epochs, time_limit, on_batch)
    for each in models:
        each.eval()

    announce = on_measure or (lambda what: None)
    announce("accuracy and output difference")
    accuracies = [evaluate(each, test_set).accuracy for each in models]
    stock_scores = predict(models[0], test_set)
    difference = (predict(fastvision.convert(models[0]), test_set) - stock_scores).abs().max().item()

    announce("latency")
    images = torch.rand(LATENCY_BATCH_SIZE, *test_set.image_shape, device=device)
    image_latencies = measure_latencies(models, images[:1])
    batch_latencies = measure_latencies(models, images)

    announce("peak memory")
    memories = [_peak_memory(train_set, model, converted, device) for converted in (False, True)]
    measured = zip(accuracies, epoch_timings, image_latencies, batch_latencies, memories, strict=True)
    stock, ours = (Implementation(*values) for values in measured)
    return Comparison(
        stock=stock,
        fastvision=ours,
        largest_difference=difference,
        largest_score=stock_scores.abs().max().item(),
        epochs=trainers[0].epochs_done,
        model=models[1],
    )


def train_in_turns(
    trainers: list[Trainer],
    epochs: int,
    time_limit: float,
    on_batch: Callable[[str, Progress], None] | None,
) -> list[Timing]:
    """Trains stock's and fastvision's for `epochs`, or until the next would exceed the time limit.

    They take turns an epoch at a time. Returns how long the epochs of each took.
    """
    start = time.perf_counter()
    seconds: list[list[float]] = [[] for _ in trainers]
    for epoch in range(epochs):
        elapsed = time.perf_counter() - start
        if epoch and elapsed * (epoch + 1) / epoch > time_limit:
            break
        for name, trainer, durations in zip(NAMES, trainers, seconds, strict=True):
            report = functools.partial(on_batch, name) if on_batch else None
            durations.append(trainer.run_epoch(report).seconds)
    return [Timing.of(durations) for durations in seconds]


def _peak_memory(dataset: ImageDataset, model: ModelName, converted: bool, device: torch.device | str) -> int | None:
    return peak_training_memory(
        TrainingRun(
            model,
            dataset.image_shape,
            len(dataset.classes),
            BATCH_SIZE,
            converted,
            str(device),
            torch.get_num_threads(),
        )
    )
