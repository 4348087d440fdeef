"""Latency and peak memory of models."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from fastvision import _resident, backends
from fastvision.data import ImageDataset
from fastvision.training.build import ModelName, build_model
from fastvision.training.loop import Trainer

ROUNDS = 5
SECONDS_PER_ROUND = 0.2
MEMORY_STEPS = 3


@dataclass(frozen=True)
class Timing:
    """Median and interquartile range of durations, in seconds; one duration alone has no range."""

    median: float
    iqr: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        first, median, third = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
        return cls(median, third - first if len(seconds) > 1 else None)


def measure_calls(calls: Sequence[Callable[[], object]]) -> list[Timing]:
    """How long each call takes, with the threads that torch is set to.

    They take turns, so that whatever else the machine does disturbs all of them alike.
    """
    timers = [Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads()) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for timer, seconds in zip(timers, times, strict=True):
            seconds += timer.blocked_autorange(min_run_time=SECONDS_PER_ROUND).times
    return [Timing.of(seconds) for seconds in times]


def measure_latencies(models: Sequence[nn.Module], images: Tensor) -> list[Timing]:
    """How long each model takes for `images`, in inference mode, as :func:`measure_calls` measures."""
    with torch.inference_mode():
        return measure_calls([partial(model, images) for model in models])


@dataclass(frozen=True)
class TrainingRun:
    """What :func:`peak_training_memory` runs: a few training steps of a model on random images."""

    model: ModelName
    image_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    converted: bool
    device: str
    threads: int


def peak_training_memory(run: TrainingRun) -> int | None:
    """Bytes that training steps add at their peak to a process that has already taken a step with one image.

    These are the activations, the gradients on their way back and the operators' workspace; parameters, their
    gradients and the optimiser's state are there before. Measured in a new process, whose memory nothing else has
    touched, as resident memory, or on a GPU as what torch's allocator has handed out. None where the operating system
    doesn't tell.

    Raises:
        RuntimeError: Where the new process fails.
    """
    program = f"from {__name__} import report_training_memory; report_training_memory()"
    command = [sys.executable, "-c", program, json.dumps(asdict(run))]
    # glibc keeps freed blocks for reuse up to this size in bytes; a low limit makes resident memory follow live memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise RuntimeError(f"peak_training_memory: the measuring process failed:\n{child.stderr}")
    return json.loads(child.stdout)


def report_training_memory() -> None:
    """The other process of :func:`peak_training_memory`: a run as JSON in argv, bytes or null on stdout."""
    run = TrainingRun(**json.loads(sys.argv[1]))
    print(json.dumps(_measure(run)))


def _measure(run: TrainingRun) -> int | None:
    backends.cpu.max_cached_bytes = 0  # nor may fastvision keep what it has freed
    torch.set_num_threads(run.threads)
    dataset = _random_images(run)
    model = build_model(dataset, run.model, converted=run.converted).to(run.device)
    Trainer(model, dataset.subset(slice(1))).run_epoch()
    trainer = Trainer(model, dataset, batch_size=run.batch_size)
    if torch.device(run.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.run_epoch()
        return torch.cuda.max_memory_allocated() - before
    before = _resident.reset_peak()
    trainer.run_epoch()
    return None if before is None else _resident.peak() - before


def _random_images(run: TrainingRun) -> ImageDataset:
    count = run.batch_size * MEMORY_STEPS
    images = torch.randint(256, (count, *run.image_shape), dtype=torch.uint8)
    labels = torch.randint(run.num_classes, (count,))
    return ImageDataset("random", images, labels, [str(label) for label in range(run.num_classes)])
