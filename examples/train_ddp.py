"""Trains a converted model in several processes, each with its share of every batch (DistributedDataParallel).

    torchrun --nproc-per-node 2 examples/train_ddp.py --model cnn
    torchrun --nproc-per-node 2 examples/train_ddp.py --model lstm --shard

The model is that of one process up to rounding, whatever the number of processes. `--shard` distributes the parameters,
too (FSDP2). Without torchrun there is one process.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastvision
from fastvision.data import ImageDataset, load
from fastvision.models import RecognitionCNN, SequenceClassifier
from fastvision.training.processes import Processes, torchrun_processes


def build(kind: str, dataset: ImageDataset) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    channels, height, width = dataset.image_shape
    classes = len(dataset.classes)
    if kind == "cnn":
        model = RecognitionCNN(classes, channels, (height, width), padding=1, dropout=0)
    else:
        model = SequenceClassifier(classes, channels * width, cell="LSTM")
    return fastvision.convert(model)


def train(
    model: nn.Module,
    dataset: ImageDataset,
    optimizer_of: Callable[..., torch.optim.Optimizer],
    *,
    batch_size: int,
    steps: int,
    shard: bool = False,
) -> nn.Module:
    """Trains on `steps` batches and returns the model, wrapped where there is a process group.

    `batch_size` images are shared among the processes, whose number must divide it: then the mean of their gradients is
    the gradient of the batch.
    """
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if batch_size % processes:
        raise ValueError(f"batch_size: expected a multiple of the {processes} processes, got {batch_size}")
    if shard:
        for child in model.children():
            fully_shard(child)
        fully_shard(model)
    elif dist.is_initialized():
        model = DistributedDataParallel(model)
    optimizer = optimizer_of(model.parameters())
    generator = torch.Generator().manual_seed(0)  # the same order in every process
    for step in range(steps):
        chosen = torch.randint(len(dataset), (batch_size,), generator=generator)
        images, labels = dataset[chosen[rank::processes]]
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return model


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict of the model as it was before it was wrapped or sharded; on all processes a call for all."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def run(arguments: argparse.Namespace, processes: Processes) -> None:
    train_set, test_set = load(arguments.data)
    adam = functools.partial(torch.optim.Adam, lr=arguments.lr)
    options = {"batch_size": arguments.batch_size, "steps": arguments.steps, "shard": arguments.shard}
    state = whole_state(train(build(arguments.model, train_set), train_set, adam, **options))
    if not processes.is_first:
        return
    trained = build(arguments.model, train_set).eval()
    trained.load_state_dict(state)
    images, labels = test_set[:]
    with torch.inference_mode():
        accuracy = (trained(images).argmax(1) == labels).float().mean().item()
    print(f"{train_set.name}: test accuracy {accuracy:.2%}")
    if arguments.out is not None:
        torch.save(state, arguments.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("cnn", "lstm"), default="cnn")
    parser.add_argument("--data", type=Path, help="directory of IDX files; by default real images at hand")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64, help="images of a step, of all processes together")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--shard", action="store_true", help="distribute the parameters as well")
    parser.add_argument("--out", type=Path, help="file for the state_dict")
    arguments = parser.parse_args()

    with torchrun_processes("cpu") as (processes, _):
        if arguments.shard and processes.count == 1:
            parser.error("--shard needs the processes of torchrun")
        run(arguments, processes)


if __name__ == "__main__":
    main()
