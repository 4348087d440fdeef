"""What tests in several processes share: torchrun, and what test_distributed.py trains on."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import torch

import fastvision
from fastvision.data import ImageDataset

OPTIONS = {"batch_size": 8, "steps": 3}
OPTIMIZER = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)  # Adam would amplify rounding


def dataset() -> ImageDataset:
    """A few random images."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageDataset("random", images, torch.arange(24) % 3, ["a", "b", "c"])


def run_two_processes(*arguments: str | Path, folders: tuple[Path, ...] = (), cwd: Path | None = None) -> str:
    """What torchrun printed of a program and its arguments, which may import from `folders`, too."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    path = os.pathsep.join(map(str, (Path(fastvision.__file__).parents[1], *folders)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout
