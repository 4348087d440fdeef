"""Several processes that train one model, as torchrun starts them: each takes its share of every batch."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported while a group exists, its functions would hold that group for good
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; what they do together, all of them have to call.

    Attributes:
        rank: Its number, from 0 on. The first one writes and prints.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Of what each process draws by itself; the first one's is that of a process alone."""
        return seed + (self.rank << 32)

    def share_of(self, total: int) -> int:
        """How many of `total` images are this process's."""
        return len(range(self.rank, total, self.count))

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are the mean over the processes."""
        return model if self.count == 1 else DistributedDataParallel(model)

    def sum(self, numbers: Tensor) -> Tensor:
        """Over the processes, element by element; of a tensor on the CPU."""
        if self.count > 1:
            numbers = numbers.to(_device())
            dist.all_reduce(numbers)
        return numbers.cpu()

    def any(self, value: bool) -> bool:
        """Whether it is true in one of the processes."""
        return bool(self.sum(torch.tensor([float(value)])))

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """For all of them."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


def _device() -> str:
    """Where the group's tensors have to be."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


@contextmanager
def torchrun_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Those of torchrun, ALONE without it, and the device of this one, for as long as the context lasts.

    They talk by gloo, or by NCCL where the device is ``"cuda"``, which then is a GPU for each of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    processes = Processes(dist.get_rank(), dist.get_world_size())
    try:
        yield processes, device
        processes.wait()
    finally:
        # A thread of the group that lets go of a tensor while the interpreter ends aborts the process. The threads end
        # with the last reference to the group, and a model in parallel has one. FSDP keeps one for good: there, having
        # waited for the others gives the threads their time.
        gc.collect()
        dist.destroy_process_group()
