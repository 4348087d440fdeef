"""Run by torchrun in test_distributed.py: trains with examples/train_ddp.py's functions and saves what comes out."""

import sys

import torch
import torch.distributed as dist
from distributed_cases import OPTIMIZER, OPTIONS, dataset
from train_ddp import build, train, whole_state


def main(path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    states = {}
    for kind in ("cnn", "lstm"):
        for shard in (False, True):
            states[kind, shard] = whole_state(
                train(build(kind, dataset()), dataset(), OPTIMIZER, shard=shard, **OPTIONS)
            )
    if dist.get_rank() == 0:
        torch.save(states, path)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
