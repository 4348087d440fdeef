"""Run by torchrun in test_distributed.py: trains with examples/train_ddp.py's functions and saves what comes out."""

import sys

import torch
from distributed_cases import OPTIMIZER, OPTIONS, dataset
from train_ddp import build, train, whole_state

from fastvision.training.processes import torchrun_processes


def main(path: str) -> None:
    torch.set_num_threads(1)
    with torchrun_processes("cpu") as (processes, _):
        states = {
            (kind, shard): whole_state(train(build(kind, dataset()), dataset(), OPTIMIZER, shard=shard, **OPTIONS))
            for kind in ("cnn", "lstm")
            for shard in (False, True)
        }
        if processes.is_first:
            torch.save(states, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
